"""Slim, immutable pictures of the objects that the operator watches.

A watched object is some 5 to 10 kB of nested dicts; a decision needs a few fields of it. What is kept
here is what `reconcile` reads, and nothing of a finished job but its identity and its end.
"""

import json
import operator
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from quantization_api.failures import ExitCode
from quantization_api.pod import CONTAINER_NAME
from quantization_api.status import Condition, QuantizationJobStatus
from quantization_operator.queue_entry import QUEUE_LABEL

JOB_UID_LABEL = "quantization.dev/job-uid"
"""On the child Job and its pods: the uid of the QuantizationJob they work for."""

FAILED_BEFORE_ANNOTATION = "quantization.dev/failed-before"
"""On the child Job: the failed attempts that earlier Jobs of the same QuantizationJob counted."""

GENERATION_ANNOTATION = "quantization.dev/generation"
"""On the child Job: the generation of the QuantizationJob that it was made for."""

FINALIZER = "quantization.dev/artifact"
"""On a QuantizationJob whose artifact is to be removed before it."""

SIGTERM_EXIT_CODE = int(ExitCode.TERMINATED)

QUEUE_PREFIXES = ("kueue.x-k8s.io/", "scheduling.volcano.sh/", "volcano.sh/")
"""Labels and annotations that belong to a queueing system; they travel to the child Job."""

IMAGE_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
)
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
"""Why a container waits that will not start as it is; any other reason (ContainerCreating, PodInitializing) is none."""

Finished = Literal["", "Succeeded", "Failed"]


def timestamp(text: str | None) -> datetime | None:
    """An RFC 3339 time of the API server, with or without fractions of a second."""
    return datetime.fromisoformat(text) if text else None


def version(metadata: Mapping[str, Any]) -> int:
    """The resourceVersion as a number: comparable within one resource (KEP-5504)."""
    text = str(metadata.get("resourceVersion") or "0")
    return int(text) if text.isdecimal() else 0


def _queue_entries(entries: Mapping[str, str] | None) -> dict[str, str]:
    return {key: value for key, value in (entries or {}).items() if key.startswith(QUEUE_PREFIXES)}


def finished_as(conditions: Iterable[Mapping[str, Any]]) -> Finished:
    """How a job ended, from its conditions; "" while it has not."""
    for condition in conditions:
        if condition.get("status") == "True":
            if condition.get("type") == "Ready":
                return "Succeeded"
            if condition.get("type") == "Stalled":
                return "Failed"
    return ""


def place_of(spec: Mapping[str, Any]) -> str:
    """What tells two outputs of a namespace apart: an S3 prefix and its server, or a path on a claim; "": unknown."""
    uri = str(_at(spec, "output", "uri") or "").rstrip("/")
    if not uri.startswith("file://"):
        endpoint = str(_at(spec, "storage", "endpoint") or "").rstrip("/")
        return f"{endpoint} {uri}" if uri else ""
    path = uri.removeprefix("file://") + "/"
    claims = {
        str(_at(volume, "mountPath") or "").rstrip("/") + "/": _at(
            volume, "persistentVolumeClaim", "claimName"
        )
        for volume in _at(spec, "template", "volumes") or ()
    }
    mount = max((mount for mount in claims if path.startswith(mount)), key=len, default="")
    return f"{claims[mount]} {path.removeprefix(mount)}" if claims.get(mount) else ""


def _at(value: Any, *keys: str) -> Any:
    """A value below; None where there is none: what was stored under another schema may have another shape."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _owner_uid(metadata: Mapping[str, Any]) -> str:
    return next((o["uid"] for o in metadata.get("ownerReferences") or () if o.get("controller")), "")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A QuantizationJob. `spec` and `status` are JSON text, and empty when no decision can need them.

    place: what the output is compared by; equal for two jobs that write to the same place. completed: when it
    ended. The fields of the spec beside them are those that a decision may need at any time.
    """

    uid: str
    namespace: str
    name: str
    resource_version: int
    generation: int
    created: datetime
    deleted: datetime | None
    finalizers: tuple[str, ...]
    queue_labels: Mapping[str, str]
    queue_annotations: Mapping[str, str]
    spec: str
    status: str
    suspend: bool
    ttl_seconds: int | None
    deletes_artifact: bool
    managed_by: str
    output: str
    place: str
    observed_generation: int
    job_name: str
    phase: str
    passes: str
    finished: Finished
    completed: datetime | None

    @property
    def deleting(self) -> bool:
        """It is going away."""
        return self.deleted is not None

    @classmethod
    def of(cls, body: Mapping[str, Any], *, whole: bool = False) -> "JobRequest":
        """The picture of a QuantizationJob as the API server sends it. whole: with its spec and status in any case."""
        metadata, status = body["metadata"], body.get("status") or {}
        finished = finished_as(status.get("conditions") or ())
        generation = int(metadata.get("generation") or 0)
        observed = int(status.get("observedGeneration") or 0)
        settled = bool(finished) and observed == generation
        job_name = str(status.get("jobName") or "")
        spec = body.get("spec") or {}
        finalizers = tuple(metadata.get("finalizers") or ())
        deleted = timestamp(metadata.get("deletionTimestamp"))
        cleans_up = deleted is not None and FINALIZER in finalizers
        return cls(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            resource_version=version(metadata),
            generation=generation,
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            deleted=deleted,
            finalizers=finalizers,
            queue_labels={} if settled else _queue_entries(metadata.get("labels")),
            queue_annotations={} if settled else _queue_entries(metadata.get("annotations")),
            spec=json.dumps(spec) if whole or cleans_up or not (settled or job_name) else "",
            status=json.dumps(status) if whole or cleans_up or not settled else "",
            suspend=bool(spec.get("suspend")),
            ttl_seconds=ttl if isinstance(ttl := spec.get("ttlSecondsAfterFinished"), int) else None,
            deletes_artifact=spec.get("artifactPolicy") == "Delete",
            managed_by=sys.intern(str(spec.get("managedBy") or "")),
            output=str(_at(spec, "output", "uri") or ""),
            place=place_of(spec),
            observed_generation=observed,
            job_name=job_name,
            phase=str(status.get("phase") or ""),
            passes=str(status.get("passes") or ""),
            finished=finished,
            completed=timestamp(status.get("completionTime")) if finished else None,
        )

    def read_status(self) -> QuantizationJobStatus:
        """The status as last written. One of an older schema is read as far as it is understood."""
        raw = json.loads(self.status) if self.status else {}
        try:
            return QuantizationJobStatus.model_validate(raw)
        except ValidationError:
            return QuantizationJobStatus(
                job_name=self.job_name or None,
                conditions=[c for c in map(_condition, raw.get("conditions") or ()) if c is not None],
            )


def _condition(raw: Mapping[str, Any]) -> Condition | None:
    try:
        return Condition.model_validate(raw)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A batch/v1 Job. `ended` is the type of its final condition, "" while it has none.

    queue: Kueue's LocalQueue that it is in, "" without one. generation: of the QuantizationJob that it was made for.
    """

    uid: str
    namespace: str
    name: str
    resource_version: int
    request_uid: str
    owner_uid: str
    generation: int
    created: datetime
    completion_time: datetime | None
    deleted: datetime | None
    suspended: bool
    queue: str
    failed: int
    failed_before: int
    ended: Literal["", "Complete", "Failed"]
    ended_reason: str
    ended_message: str
    ended_at: datetime | None

    @property
    def deleting(self) -> bool:
        """It is going away, when its pods have."""
        return self.deleted is not None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "ChildJob":
        """The picture of a Job as the API server sends it."""
        metadata, status = body["metadata"], body.get("status") or {}
        annotations = metadata.get("annotations") or {}
        final: Mapping[str, Any] = next(
            (
                c
                for c in status.get("conditions") or ()
                if c.get("type") in ("Complete", "Failed") and c.get("status") == "True"
            ),
            {},
        )
        return cls(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            resource_version=version(metadata),
            request_uid=(metadata.get("labels") or {}).get(JOB_UID_LABEL, ""),
            owner_uid=_owner_uid(metadata),
            generation=int(annotations.get(GENERATION_ANNOTATION) or 0),
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            completion_time=timestamp(status.get("completionTime")),
            deleted=timestamp(metadata.get("deletionTimestamp")),
            suspended=bool((body.get("spec") or {}).get("suspend")),
            queue=sys.intern(str((metadata.get("labels") or {}).get(QUEUE_LABEL) or "")),
            failed=int(status.get("failed") or 0),
            failed_before=int(annotations.get(FAILED_BEFORE_ANNOTATION) or 0),
            ended=final.get("type", ""),
            ended_reason=final.get("reason") or "",
            ended_message=final.get("message") or "",
            ended_at=timestamp(final.get("lastTransitionTime")),
        )


@dataclass(frozen=True, slots=True)
class ChildPod:
    """A pod of a child Job; the container is the quantizer's.

    job_uid: of the Job that made it.
    waiting_container: whose waiting_reason and waiting_message are told: the quantizer's, and while that has not
    started the first that an error keeps from starting, of it, the init containers, and what else is in the pod.
    disruption: reason of the DisruptionTarget condition, "" without one.
    oom_killed: name of a container that the kernel killed, now or before, the quantizer's first; "" without one.
    """

    uid: str
    namespace: str
    name: str
    resource_version: int
    request_uid: str
    job_uid: str
    created: datetime
    deleting: bool
    phase: str
    ip: str
    node: str
    reason: str
    message: str
    disruption: str
    disruption_message: str
    unscheduled_message: str
    waiting_container: str
    waiting_reason: str
    waiting_message: str
    running: bool
    exit_code: int | None
    ended_reason: str
    ended_message: str
    ended_at: datetime | None
    oom_killed: str

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "ChildPod":
        """The picture of a pod as the API server sends it."""
        metadata, status = body["metadata"], body.get("status") or {}
        conditions = {c.get("type"): c for c in status.get("conditions") or ()}
        disruption = conditions.get("DisruptionTarget") or {}
        disrupted = disruption.get("status") == "True"
        scheduled = conditions.get("PodScheduled") or {}
        containers = status.get("containerStatuses") or ()
        first = status.get("initContainerStatuses") or ()
        own: Mapping[str, Any] = next((c for c in containers if c.get("name") == CONTAINER_NAME), {})
        state = own.get("state") or {}
        ended = state.get("terminated") or {}
        waits = _waiting(own, [] if "running" in state or ended else [*first, *containers])
        waiting = (waits.get("state") or {}).get("waiting") or {}
        return cls(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            resource_version=version(metadata),
            request_uid=(metadata.get("labels") or {}).get(JOB_UID_LABEL, ""),
            job_uid=_owner_uid(metadata),
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            deleting=metadata.get("deletionTimestamp") is not None,
            phase=status.get("phase") or "",
            ip=status.get("podIP") or "",
            node=(body.get("spec") or {}).get("nodeName") or "",
            reason=status.get("reason") or "",
            message=status.get("message") or "",
            disruption=(disruption.get("reason") or "Unknown") if disrupted else "",
            disruption_message=(disruption.get("message") or "") if disrupted else "",
            unscheduled_message=(
                scheduled.get("message") or scheduled.get("reason") or ""
                if scheduled.get("status") == "False"
                else ""
            ),
            waiting_container=sys.intern(str(waits.get("name") or CONTAINER_NAME)),
            waiting_reason=waiting.get("reason") or "",
            waiting_message=waiting.get("message") or "",
            running="running" in state,
            exit_code=ended.get("exitCode"),
            ended_reason=ended.get("reason") or "",
            ended_message=ended.get("message") or "",
            ended_at=timestamp(ended.get("finishedAt")),
            oom_killed=_oom_killed([own, *containers, *first]),
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
        )


def _waiting(own: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first container that an error keeps from starting, else the quantizer's own."""
    errors = (*IMAGE_REASONS, *CONFIG_REASONS)
    for container in (own, *others):
        if ((container.get("state") or {}).get("waiting") or {}).get("reason") in errors:
            return container
    return own


def _oom_killed(statuses: Iterable[Mapping[str, Any]]) -> str:
    for container in statuses:
        for key in ("state", "lastState"):
            ended = (container.get(key) or {}).get("terminated") or {}
            if ended.get("reason") == "OOMKilled":
                return str(container["name"])
    return ""


@dataclass(frozen=True, slots=True)
class KubernetesWarning:
    """A Warning event about a Job or a pod that does not get on."""

    reason: str
    message: str
    last_seen: datetime | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "KubernetesWarning":
        """The picture of a core/v1 Event."""
        last = body.get("lastTimestamp") or body.get("eventTime") or body["metadata"].get("creationTimestamp")
        return cls(body.get("reason") or "", body.get("message") or "", timestamp(last))


_SAID = {
    kind: operator.attrgetter(*(f.name for f in fields(kind) if f.name != "resource_version"))
    for kind in (JobRequest, ChildJob, ChildPod)
}


def says_the_same(one: JobRequest | ChildJob | ChildPod, other: JobRequest | ChildJob | ChildPod) -> bool:
    """Whether two pictures of an object differ in nothing but their version: no decision could differ either."""
    said = _SAID[type(one)]
    return bool(said(one) == said(other))
