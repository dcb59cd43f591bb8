"""Slim pictures of what works for a Job: its pods, and the Warning events about them. As those of `snapshots`."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from quantization_api.failures import ExitCode
from quantization_api.pod import CONTAINER_NAME
from quantization_operator import parsing
from quantization_operator.identity import Identity, controller_of, identify
from quantization_operator.parsing import at, mapping, mappings, moment, text, word

SIGTERM_EXIT_CODE = int(ExitCode.TERMINATED)

IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
)
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
CRASHING = "CrashLoopBackOff"
"""Only of a container that is started again when it fails; the quantizer's is not."""
ERRORS_AT_START = (*IMAGE_REASONS, *CONFIG_REASONS, CRASHING)
"""Why a container waits that will not start as it is; any other reason (ContainerCreating, PodInitializing) is none."""

LONGEST_RESULT = 16 * 1024
"""Characters of a termination message: a kubelet keeps 12 kB of all of a pod's."""


@dataclass(frozen=True, slots=True)
class ChildPod:
    """A pod of a child Job; the container is the quantizer's."""

    uid: str
    namespace: str
    name: str
    resource_version: int
    qjob_uid: str
    """Of the QuantizationJob that it says it works for."""
    job_uid: str
    """Of the Job that made it."""
    created: datetime
    deleting: bool
    phase: str
    ip: str
    node: str
    reason: str
    message: str
    disruption: str
    """Reason of the DisruptionTarget condition, "" without one."""
    disruption_message: str
    unscheduled_message: str
    scheduler: str
    seen_by_scheduler: bool
    gated: bool
    """Somebody keeps the scheduler from looking at it, a queue for example."""
    waiting_container: str
    """Whose waiting_reason and waiting_message these are: the quantizer's, or, while that has not started, those of the
    first container of the pod that an error keeps from starting."""
    waiting_reason: str
    waiting_message: str
    running: bool
    exit_code: int | None
    ended_reason: str
    ended_message: str
    ended_at: datetime | None
    oom_killed: str
    """Name of a container that the kernel killed, now or before, the quantizer's first; "" without one."""
    still_runs: str
    """Name of a container beside the quantizer's that runs, native sidecars apart; "" without one."""
    failed_container: str
    """Name of a container beside the quantizer's that ended with another code than 0; "" without one."""
    failed_message: str
    """Its exit code and what it left."""

    @classmethod
    def of(cls, body: Any) -> "ChildPod | None":
        """The picture of a pod as the API server sends it."""
        known = identify("Pod", body)
        return None if known is None else cls._of(known, body)

    @classmethod
    def _of(cls, known: Identity, body: Mapping[str, Any]) -> "ChildPod":
        metadata, status = body["metadata"], mapping(body.get("status"))
        conditions = {word(c.get("type")): c for c in mappings(status.get("conditions"))}
        disruption, scheduled = (mapping(conditions.get(key)) for key in ("DisruptionTarget", "PodScheduled"))
        disrupted, unscheduled = disruption.get("status") == "True", scheduled.get("status") == "False"
        containers, first = (
            mappings(status.get("containerStatuses")),
            mappings(status.get("initContainerStatuses")),
        )
        own: Mapping[str, Any] = next((c for c in containers if c.get("name") == CONTAINER_NAME), {})
        state = mapping(own.get("state"))
        ended = mapping(state.get("terminated"))
        waits = _waiting(own, [] if "running" in state or ended else [*first, *containers])
        waiting = mapping(at(waits, "state", "waiting"))
        others = [c for c in containers if c is not own]
        failed = next(filter(_failed, (*first, *others)), {})
        return cls(
            uid=known.uid,
            namespace=known.namespace,
            name=known.name,
            resource_version=known.resource_version,
            qjob_uid=known.key.uid,
            job_uid=controller_of(metadata, "batch", "Job"),
            created=known.created,
            deleting=metadata.get("deletionTimestamp") is not None,
            phase=word(status.get("phase")),
            ip=word(status.get("podIP")),
            node=word(at(body, "spec", "nodeName")),
            reason=word(status.get("reason")),
            message=text(status.get("message")),
            disruption=(word(disruption.get("reason")) or "Unknown") if disrupted else "",
            disruption_message=text(disruption.get("message")) if disrupted else "",
            unscheduled_message=text(scheduled.get("message") or scheduled.get("reason"))
            if unscheduled
            else "",
            scheduler=sys.intern(word(at(body, "spec", "schedulerName")) or "default-scheduler"),
            seen_by_scheduler=bool(scheduled),
            gated=bool(at(body, "spec", "schedulingGates")),
            waiting_container=sys.intern(word(waits.get("name")) or CONTAINER_NAME),
            waiting_reason=word(waiting.get("reason")),
            waiting_message=text(waiting.get("message")),
            running="running" in state,
            exit_code=parsing.signed(ended.get("exitCode")),
            ended_reason=word(ended.get("reason")),
            ended_message=parsing.raw(ended.get("message"), LONGEST_RESULT),
            ended_at=moment(ended.get("finishedAt")),
            oom_killed=_oom_killed([own, *containers, *first]),
            still_runs=next(
                (word(c.get("name")) for c in others if at(c, "state", "running") is not None), ""
            ),
            failed_container=word(failed.get("name")),
            failed_message=_end(mapping(at(failed, "state", "terminated"))),
        )

    @property
    def taken_away(self) -> bool:
        """It was disrupted, or told to end before it was done; the Job does not count it as failed."""
        return bool(self.disruption) or self.exit_code == SIGTERM_EXIT_CODE

    def slim(self) -> "ChildPod":
        """Without its texts, once its job has ended and they are copied into the status."""
        return replace(
            self,
            message="",
            disruption_message="",
            unscheduled_message="",
            waiting_message="",
            ended_message="",
            failed_message="",
        )


def _waiting(own: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first container that an error keeps from starting, else the quantizer's own."""
    for container in (own, *others):
        if at(container, "state", "waiting", "reason") in ERRORS_AT_START:
            return container
    return own


def _failed(container: Mapping[str, Any]) -> bool:
    return bool(parsing.signed(at(container, "state", "terminated", "exitCode")))


def _end(terminated: Mapping[str, Any]) -> str:
    code = parsing.signed(terminated.get("exitCode"))
    return ": ".join(filter(None, (f"exit code {code}" if code else "", text(terminated.get("message")))))


def _oom_killed(statuses: Iterable[Mapping[str, Any]]) -> str:
    for container in statuses:
        for key in ("state", "lastState"):
            if at(container, key, "terminated", "reason") == "OOMKilled":
                return word(container.get("name"))
    return ""


@dataclass(frozen=True, slots=True)
class KubernetesWarning:
    """A Warning event about a Job or a pod that does not get on."""

    reason: str
    message: str
    last_seen: datetime | None

    @classmethod
    def of(cls, body: Any) -> "KubernetesWarning":
        """The picture of a core/v1 Event."""
        told = (at(body, "lastTimestamp"), at(body, "eventTime"), at(body, "metadata", "creationTimestamp"))
        last = next(filter(None, told), None)
        return cls(word(at(body, "reason")), text(at(body, "message")), moment(last))
