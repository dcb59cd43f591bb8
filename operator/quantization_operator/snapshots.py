"""Slim, immutable pictures of the objects that the operator watches.

A watched object is some 5 to 10 kB of nested dicts; a decision needs a few fields of it. What is kept
here is what `reconcile` reads, and nothing of a finished job but its identity and its end. Every value is read by
`parsing`, so any object gives a picture, or None when it is nobody's (`identity`); nothing here raises.
"""

import json
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import ValidationError

from quantization_api import GROUP, KIND
from quantization_api.failures import ExitCode
from quantization_api.pod import CONTAINER_NAME
from quantization_api.status import Condition, Phase, QuantizationJobStatus
from quantization_operator import parsing
from quantization_operator.identity import JOB_UID_LABEL as JOB_UID_LABEL
from quantization_operator.identity import Identity, identify
from quantization_operator.parsing import at, mapping, mappings, moment, text, word
from quantization_operator.queue_entry import QUEUE_LABEL

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
ERRORS_AT_START = (*IMAGE_REASONS, *CONFIG_REASONS)
"""Why a container waits that will not start as it is; any other reason (ContainerCreating, PodInitializing) is none."""

Finished = Literal["", "Succeeded", "Failed"]

LONGEST_RESULT = 16 * 1024
"""Characters of a termination message: a kubelet keeps 12 kB of all of a pod's."""
LARGEST_QUEUE_ENTRIES = 16 * 1024
"""Characters of all labels and annotations that travel to the child Job."""


def _queue_entries(entries: Any) -> dict[str, str]:
    """Those of a queueing system."""
    found = mapping(entries)
    return {k: v for k, v in found.items() if k.startswith(QUEUE_PREFIXES) and isinstance(v, str)}


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
    uri = _uri(spec).rstrip("/")
    if not uri.startswith("file://"):
        endpoint = parsing.raw(at(spec, "storage", "endpoint"), parsing.LONGEST_TEXT).rstrip("/")
        return f"{endpoint} {uri}" if uri else ""
    path = uri.removeprefix("file://") + "/"
    claims = {
        word(volume.get("mountPath")).rstrip("/") + "/": word(
            at(volume, "persistentVolumeClaim", "claimName")
        )
        for volume in mappings(at(spec, "template", "volumes"))
    }
    mount = max((mount for mount in claims if path.startswith(mount)), key=len, default="")
    return f"{claims[mount]} {path.removeprefix(mount)}" if claims.get(mount) else ""


def _uri(spec: Mapping[str, Any]) -> str:
    return parsing.raw(at(spec, "output", "uri"), parsing.LONGEST_TEXT)


FOREIGN = "?"
"""In place of a uid: a controller of another kind has the object."""


def _controller(metadata: Mapping[str, Any], group: str, kind: str) -> str:
    """The uid of the object of that kind that controls this one; "" when nothing controls it."""
    for owner in mappings(metadata.get("ownerReferences")):
        if owner.get("controller") is True:
            ours = owner.get("kind") == kind and str(owner.get("apiVersion")).partition("/")[0] == group
            return (word(owner.get("uid")) if ours else "") or FOREIGN
    return ""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A QuantizationJob. `spec` and `status` are JSON text, and empty when no decision can need them.

    place: what the output is compared by; equal for two jobs that write to the same place. completed: when it
    ended. job_uid: of the Job that was believed to be its own. problem: why the spec cannot be read, "" when it can.
    The fields of the spec beside them are those that a decision may need at any time.
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
    problem: str
    status: str
    suspend: bool
    ttl_seconds: int | None
    deletes_artifact: bool
    managed_by: str
    output: str
    place: str
    observed_generation: int
    job_name: str
    job_uid: str
    phase: str
    passes: str
    finished: Finished
    completed: datetime | None

    @property
    def deleting(self) -> bool:
        """It is going away."""
        return self.deleted is not None

    @classmethod
    def of(cls, body: Any, *, whole: bool = False) -> "JobRequest | None":
        """The picture of a QuantizationJob as the API server sends it. whole: with its spec and status in any case."""
        known = identify("QuantizationJob", body)
        return None if known is None else cls._of(known, body, whole)

    @classmethod
    def _of(cls, known: Identity, body: Mapping[str, Any], whole: bool) -> "JobRequest":
        metadata, spec, status = body["metadata"], mapping(body.get("spec")), mapping(body.get("status"))
        finished = finished_as(mappings(status.get("conditions")))
        generation = parsing.integer(metadata.get("generation"))
        observed = parsing.integer(status.get("observedGeneration"))
        settled = bool(finished) and observed == generation
        job_name = word(status.get("jobName"))
        finalizers = parsing.strings(metadata.get("finalizers"))
        deleted = moment(metadata.get("deletionTimestamp"))
        cleans_up = deleted is not None and FINALIZER in finalizers
        queue = [{} if settled else _queue_entries(metadata.get(key)) for key in ("labels", "annotations")]
        needs_spec = whole or cleans_up or not (settled or job_name)
        kept, problem = parsing.kept(body.get("spec"), "spec") if needs_spec else ("", "")
        if (
            size := sum(parsing.size((*entries, *entries.values())) for entries in queue)
        ) > LARGEST_QUEUE_ENTRIES:
            queue = [{}, {}]
            problem = (
                f"the labels and annotations of its queue have {size} characters, "
                f"more than {LARGEST_QUEUE_ENTRIES}"
            )
        return cls(
            uid=known.uid,
            namespace=known.namespace,
            name=known.name,
            resource_version=known.resource_version,
            generation=generation,
            created=known.created,
            deleted=deleted,
            finalizers=finalizers,
            queue_labels=queue[0],
            queue_annotations=queue[1],
            spec=kept,
            problem=problem,
            status=parsing.kept(status, "status")[0] if whole or cleans_up or not settled else "",
            suspend=bool(spec.get("suspend")),
            ttl_seconds=parsing.signed(spec.get("ttlSecondsAfterFinished")),
            deletes_artifact=spec.get("artifactPolicy") == "Delete",
            managed_by=sys.intern(word(spec.get("managedBy"))),
            output=_uri(spec),
            place=place_of(spec),
            observed_generation=observed,
            job_name=job_name,
            job_uid=word(status.get("jobUid")),
            phase=_phase(status.get("phase")),
            passes=word(status.get("passes")),
            finished=finished,
            completed=moment(status.get("completionTime")) if finished else None,
        )

    def status_as_stored(self) -> Mapping[str, Any]:
        """The status as JSON data, {} where it is not kept."""
        return mapping(json.loads(self.status)) if self.status else {}

    def read_status(self) -> QuantizationJobStatus:
        """The status as last written. One of an older schema, or of somebody else, is read as far as it goes."""
        raw = self.status_as_stored()
        try:
            return QuantizationJobStatus.model_validate(raw)
        except ValidationError:
            return QuantizationJobStatus(
                job_name=self.job_name or None,
                job_uid=self.job_uid or None,
                conditions=_conditions(mappings(raw.get("conditions"))),
            )


PHASES = frozenset(get_args(Phase))
MOST_CONDITIONS = 8


def _phase(value: Any) -> str:
    """One of the phases: it is a label of a metric."""
    return value if isinstance(value, str) and value in PHASES else ""


def _conditions(stored: Sequence[Mapping[str, Any]]) -> list[Condition]:
    read = (_condition(raw) for raw in stored[:MOST_CONDITIONS])
    return [condition for condition in read if condition is not None]


def _condition(raw: Mapping[str, Any]) -> Condition | None:
    try:
        return Condition.model_validate(raw)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A batch/v1 Job. `ended` is the type of its final condition, "" while it has none.

    owner_uid: of the QuantizationJob that controls it, "" when nothing does, FOREIGN when something else does.
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
    def of(cls, body: Any) -> "ChildJob | None":
        """The picture of a Job as the API server sends it."""
        known = identify("Job", body)
        return None if known is None else cls._of(known, body)

    @classmethod
    def _of(cls, known: Identity, body: Mapping[str, Any]) -> "ChildJob":
        metadata, status = body["metadata"], mapping(body.get("status"))
        annotations = mapping(metadata.get("annotations"))
        final = _final(mappings(status.get("conditions")))
        return cls(
            uid=known.uid,
            namespace=known.namespace,
            name=known.name,
            resource_version=known.resource_version,
            request_uid=known.key.uid,
            owner_uid=_controller(metadata, GROUP, KIND),
            generation=parsing.integer(annotations.get(GENERATION_ANNOTATION)),
            created=known.created,
            completion_time=moment(status.get("completionTime")),
            deleted=moment(metadata.get("deletionTimestamp")),
            suspended=bool(at(body, "spec", "suspend")),
            queue=sys.intern(word(at(metadata, "labels", QUEUE_LABEL))),
            failed=parsing.integer(status.get("failed")),
            failed_before=parsing.integer(annotations.get(FAILED_BEFORE_ANNOTATION), most=MOST_ATTEMPTS),
            ended=final.get("type", ""),
            ended_reason=word(final.get("reason")),
            ended_message=text(final.get("message")),
            ended_at=moment(final.get("lastTransitionTime")),
        )


MOST_ATTEMPTS = 1000
"""That an annotation is believed to have counted; backoffLimit is at most 100."""


def _final(conditions: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    for condition in conditions:
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            return condition
    return {}


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
        return cls(
            uid=known.uid,
            namespace=known.namespace,
            name=known.name,
            resource_version=known.resource_version,
            request_uid=known.key.uid,
            job_uid=_controller(metadata, "batch", "Job"),
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
            waiting_container=sys.intern(word(waits.get("name")) or CONTAINER_NAME),
            waiting_reason=word(waiting.get("reason")),
            waiting_message=text(waiting.get("message")),
            running="running" in state,
            exit_code=parsing.signed(ended.get("exitCode")),
            ended_reason=word(ended.get("reason")),
            ended_message=parsing.raw(ended.get("message"), LONGEST_RESULT),
            ended_at=moment(ended.get("finishedAt")),
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
    for container in (own, *others):
        if at(container, "state", "waiting", "reason") in ERRORS_AT_START:
            return container
    return own


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


_SAID = {
    kind: operator.attrgetter(*(f.name for f in fields(kind) if f.name != "resource_version"))
    for kind in (JobRequest, ChildJob, ChildPod)
}


def says_the_same(one: JobRequest | ChildJob | ChildPod, other: JobRequest | ChildJob | ChildPod) -> bool:
    """Whether two pictures of an object differ in nothing but their version: no decision could differ either."""
    said = _SAID[type(one)]
    return bool(said(one) == said(other))
