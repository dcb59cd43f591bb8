"""Slim, immutable pictures of the objects that the operator watches.

A watched object is some 5 to 10 kB of nested dicts; a decision needs a few fields of it. What is kept
here is what `reconcile` reads, and nothing of a finished job but its identity and its end. Every value is read by
`parsing`, so any object gives a picture, or None when it is nobody's (`identity`); nothing here raises.
"""

import json
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import ValidationError

from quantization_api import GROUP, KIND
from quantization_api.status import Condition, Phase, QuantizationJobStatus
from quantization_operator import parsing, parts
from quantization_operator.identity import QJOB_UID_LABEL as QJOB_UID_LABEL
from quantization_operator.identity import Identity, controller_of, identify
from quantization_operator.parsing import at, mapping, mappings, moment, text, word
from quantization_operator.pods import SIGTERM_EXIT_CODE as SIGTERM_EXIT_CODE
from quantization_operator.pods import ChildPod as ChildPod
from quantization_operator.pods import KubernetesWarning as KubernetesWarning
from quantization_operator.queue_entry import QUEUE_LABEL

FAILED_BEFORE_ANNOTATION = "quantization.dev/failed-before"
"""On the child Job: the failed attempts that earlier Jobs of the same QuantizationJob counted."""

GENERATION_ANNOTATION = "quantization.dev/generation"
"""On the child Job: the generation of the QuantizationJob that it was made for."""

RESTARTS_ANNOTATION = "quantization.dev/restarts"
"""On the child Job: how often the QuantizationJob had been started again when it was made."""

MADE_FROM_ANNOTATION = "quantization.dev/made-from"
"""On the child Job: what it was made from (`parts`)."""

DEFAULTS_ANNOTATION = "quantization.dev/defaults"
"""On the child Job: the fields that it has from the defaults of the cluster."""

FINALIZER = "quantization.dev/artifact"
"""On a QuantizationJob whose artifact is to be removed before it."""

QUEUE_PREFIXES = ("kueue.x-k8s.io/", "scheduling.volcano.sh/", "volcano.sh/")
"""Labels and annotations that belong to a queueing system; they travel to the child Job."""

Finished = Literal["", "Succeeded", "Failed"]

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


@dataclass(frozen=True, slots=True)
class QuantizationJob:
    """A QuantizationJob; `qjob` in the code, where `job` is Kubernetes' batch Job."""

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
    """As JSON, empty when no decision can need it. What a decision may need at any time has a field of its own."""
    problem: str
    """Why the spec cannot be read, "" when it can."""
    status: str
    """As JSON, empty when no decision can need it."""
    suspend: bool
    ttl_seconds: int | None
    deletes_artifact: bool
    managed_by: str
    output: str
    place: str
    """What the output is compared by: equal for two jobs that write to the same place."""
    observed_generation: int
    job_name: str
    job_uid: str
    """Of the Job that was believed to be its own."""
    restarts: int
    parts: str
    """What a Job would be made from now (`parts`), "" when no decision can need it."""
    changed: tuple[str, ...]
    """Of that, what is different from what its last Job was made from."""
    phase: str
    passes: str
    finished: Finished
    completed: datetime | None
    """When it ended."""

    @property
    def deleting(self) -> bool:
        """It is going away."""
        return self.deleted is not None

    @classmethod
    def of(cls, body: Any, *, whole: bool = False) -> "QuantizationJob | None":
        """The picture of a QuantizationJob as the API server sends it. whole: with its spec and status in any case."""
        known = identify("QuantizationJob", body)
        return None if known is None else cls._of(known, body, whole)

    @classmethod
    def _of(cls, known: Identity, body: Mapping[str, Any], whole: bool) -> "QuantizationJob":
        metadata, spec, status = body["metadata"], mapping(body.get("spec")), mapping(body.get("status"))
        finished = finished_as(mappings(status.get("conditions")))
        generation = parsing.integer(metadata.get("generation"))
        observed = parsing.integer(status.get("observedGeneration"))
        now = parts.told(spec, mapping(metadata.get("annotations")), generation)
        changed = parts.changed(word(status.get("madeFrom")), now, observed)
        settled = bool(finished) and observed == generation and not changed
        job_name = word(status.get("jobName"))
        finalizers = parsing.strings(metadata.get("finalizers"))
        deleted = moment(metadata.get("deletionTimestamp"))
        cleans_up = deleted is not None and FINALIZER in finalizers
        dropped = settled and not cleans_up
        queue = [{} if dropped else _queue_entries(metadata.get(key)) for key in ("labels", "annotations")]
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
            restarts=parsing.integer(status.get("restarts")),
            parts="" if settled else now,
            changed=changed,
            phase=_phase(status.get("phase")),
            passes=word(status.get("passes")),
            finished=finished,
            completed=moment(status.get("completionTime")) if finished else None,
        )

    def status_as_stored(self) -> Mapping[str, Any]:
        """The status as JSON data, {} where it is not kept."""
        return mapping(json.loads(self.status)) if self.status else {}

    def read_status(self) -> QuantizationJobStatus:
        """The status as last written. Of one of another release, or of somebody else, what is known is read."""
        raw = self.status_as_stored()
        try:
            return QuantizationJobStatus.model_validate(raw, extra="ignore")
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
    """A batch/v1 Job."""

    uid: str
    namespace: str
    name: str
    resource_version: int
    qjob_uid: str
    """Of the QuantizationJob that it says it works for."""
    owner_uid: str
    """Of the QuantizationJob that controls it; "" when nothing does, FOREIGN when something else does."""
    generation: int
    """Of the QuantizationJob that it was made for."""
    restarts: int
    """Of the QuantizationJob when it was made."""
    made_from: str
    """What it was made from (`parts`), "" for one of an earlier release."""
    defaults: str
    """The fields that it has from the defaults of the cluster, separated by commas."""
    created: datetime
    completion_time: datetime | None
    deleted: datetime | None
    suspended: bool
    queue: str
    """Kueue's LocalQueue that it is in, "" without one."""
    workers: int
    """Pods that it runs at once: several that share one piece of work, or one."""
    failed: int
    failed_before: int
    failing: bool
    """It has given up, and its pods are told to end."""
    ended: Literal["", "Complete", "Failed"]
    """Type of its final condition, "" while it has none."""
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
        told = mappings(status.get("conditions"))
        final = _true(told, "Complete", "Failed")
        return cls(
            uid=known.uid,
            namespace=known.namespace,
            name=known.name,
            resource_version=known.resource_version,
            qjob_uid=known.key.uid,
            owner_uid=controller_of(metadata, GROUP, KIND),
            generation=parsing.integer(annotations.get(GENERATION_ANNOTATION)),
            restarts=parsing.integer(annotations.get(RESTARTS_ANNOTATION)),
            made_from=word(annotations.get(MADE_FROM_ANNOTATION)),
            defaults=text(annotations.get(DEFAULTS_ANNOTATION)),
            created=known.created,
            completion_time=moment(status.get("completionTime")),
            deleted=moment(metadata.get("deletionTimestamp")),
            suspended=bool(at(body, "spec", "suspend")),
            queue=sys.intern(word(at(metadata, "labels", QUEUE_LABEL))),
            workers=_workers(mapping(body.get("spec"))),
            failed=parsing.integer(status.get("failed")),
            failed_before=parsing.integer(annotations.get(FAILED_BEFORE_ANNOTATION), most=MOST_ATTEMPTS),
            failing=bool(_true(told, "FailureTarget")),
            ended=final.get("type", ""),
            ended_reason=word(final.get("reason")),
            ended_message=text(final.get("message")),
            ended_at=moment(final.get("lastTransitionTime")),
        )


MOST_WORKERS = 64
"""That a Job is believed to have, as the contract's parallelism."""
MOST_ATTEMPTS = 1000
"""That an annotation is believed to have counted; backoffLimit is at most 100."""


def _true(conditions: Iterable[Mapping[str, Any]], *types: str) -> Mapping[str, Any]:
    """The first condition of one of the types that holds."""
    for condition in conditions:
        if condition.get("type") in types and condition.get("status") == "True":
            return condition
    return {}


def _workers(spec: Mapping[str, Any]) -> int:
    """As many as the Job runs now: a queue may have lowered it. Only the pods of a search have numbers."""
    if spec.get("completionMode") != "Indexed":
        return 1
    return max(1, parsing.integer(spec.get("parallelism"), most=MOST_WORKERS))


_SAID = {
    kind: operator.attrgetter(*(f.name for f in fields(kind) if f.name != "resource_version"))
    for kind in (QuantizationJob, ChildJob, ChildPod)
}


def says_the_same(
    one: QuantizationJob | ChildJob | ChildPod, other: QuantizationJob | ChildJob | ChildPod
) -> bool:
    """Whether two pictures of an object differ in nothing but their version: no decision could differ either."""
    said = _SAID[type(one)]
    return bool(said(one) == said(other))
