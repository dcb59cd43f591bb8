"""The decisions of the operator, as a table: what is observed, and what follows."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    ENDED,
    JOB_UID,
    NAME,
    UID,
    child,
    condition_status,
    disruption,
    ended,
    failed_result,
    job,
    pod,
    running,
    succeeded,
    terminated,
    unscheduled,
    waiting,
)

from quantization_api.failures import Category
from quantization_api.status import Progress, QuantizationJobStatus
from quantization_operator.decision import Decision, Observed, Peer, Refusal
from quantization_operator.queue_entry import QUEUE_LABEL, QueueEntry
from quantization_operator.reconcile import reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import (
    FAILED_BEFORE_ANNOTATION,
    FINALIZER,
    JOB_UID_LABEL,
    ChildJob,
    ChildPod,
    JobRequest,
    KubernetesWarning,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 0, 0, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SETTINGS = OperatorSettings(quantizer_image="quantizer:test")
MADE = condition_status("Reconciling", "Starting")
RUNS = condition_status("Reconciling", "Running")


@dataclass(frozen=True)
class Case:
    """What is observed, and the decision that must follow. `said` is a part of the Ready condition's message."""

    request: dict[str, Any] = field(default_factory=lambda: job(status=MADE))
    child: dict[str, Any] | None = None
    pods: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    now: datetime = NOW
    rule: str = ""
    phase: str | None = None
    reason: str = ""
    said: str = ""
    category: Category | None = None
    look: str = ""
    creates: bool = False
    deletes: bool = False
    finalizers: tuple[str, ...] | None = None
    releases: bool = False
    removes: bool = False
    events: tuple[str, ...] = ()
    requeued: float | None = None
    retried: bool = False


def observe(case: Case) -> Observed:
    return Observed(
        request=JobRequest.of(case.request),
        child=ChildJob.of(case.child) if case.child else None,
        pods=tuple(ChildPod.of(body) for body in case.pods),
        **case.more,
    )


def leaving(*changes: tuple[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """A job that was deleted, and whose artifact is to go with it."""
    return job(DELETE, *changes, status=status, deletionTimestamp=CREATED, finalizers=[FINALIZER])


def cleanup(status: dict[str, Any] | None = None) -> ChildJob:
    """The Job that removes the artifact."""
    return ChildJob.of(child(status=status, name="cleanup", uid="cleanup", ownerReferences=[]))


def in_queue(**metadata: Any) -> dict[str, Any]:
    """The child Job, suspended by Kueue."""
    labels = {JOB_UID_LABEL: UID, QUEUE_LABEL: "batch"}
    return child(suspend=True, labels=labels, **metadata)


DELETE = ("artifactPolicy", "Delete")
FRESH = {"fresh": True}
INVALID = ("backoffLimit", -1)
PAUSE = ("suspend", True)
PAUSED = {k: v for k, v in condition_status("Suspended", "Suspended").items() if k != "jobName"}
TTL = ("ttlSecondsAfterFinished", 60)
OTHER = Peer("other", "0", NOW - timedelta(days=1), has_job=True, finished=False, deleting=False)
PROGRESS = Progress(percent=40, stage="quantize", layer=2, layers=6, eta_seconds=30)
QUOTA = KubernetesWarning("FailedCreate", "exceeded quota: gpus", NOW)
NOT_SECURE = KubernetesWarning("FailedCreate", 'violates PodSecurity "restricted"', NOW)
DENIED = Refusal(400, 'admission webhook "noon.example.com" denied the request: not before noon')
FORBIDDEN = Refusal(422, "ValidatingAdmissionPolicy 'no' with binding 'no' denied request: no Jobs today")
NO_ANSWER = Refusal(500, 'failed calling webhook "nobody.example.com": connect: connection refused')
EVICTION = datetime.fromisoformat(ENDED)
EVICTED = terminated(143, conditions=[disruption()])
FAILED_ONCE = terminated(75, failed_result("StorageUnavailable", "no answer"))
DELETED = "2026-01-01T00:05:00Z"

CASES: dict[str, Case] = {
    # --- before the Job
    "a new job: make the Job": Case(request=job(), rule="create", creates=True),
    "no status yet, but the Job is there (killed between create and status): go on with it": Case(
        request=job(),
        child=child(),
        rule="waiting",
        phase="Pending",
        reason="Starting",
        said="waits for its pod",
        events=("JobCreated",),
        requeued=5.0,
        now=NOW - timedelta(seconds=12),
    ),
    "an invalid stored spec: refused with the sentence": Case(
        request=job(INVALID),
        rule="refused spec",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="spec.backoffLimit: Input should be greater",
        events=("InvalidWorkflow",),
    ),
    "the API server finds the Job invalid: refused": Case(
        request=job(),
        more={"refusal": Refusal(422, "spec.template.spec.tolerations[0].operator: Invalid")},
        rule="refused job",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="tolerations",
        events=("InvalidWorkflow",),
    ),
    "the API server cannot read the Job: refused": Case(
        request=job(),
        more={"refusal": Refusal(400, "Job in version v1 cannot be handled: quantities must match")},
        rule="refused job",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="quantities must match",
        events=("InvalidWorkflow",),
    ),
    "a webhook or a quota refuses the Job: told, and tried again": Case(
        request=job(),
        more={"refusal": Refusal(403, "exceeded quota: no-jobs, requested: count/jobs.batch=1")},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="count/jobs.batch=1. Delete Jobs of the namespace",
        events=("JobRefused",),
        retried=True,
    ),
    "a webhook that names no code denies the Job: told with the way out, and tried again": Case(
        request=job(),
        more={"refusal": DENIED},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="denied the request: not before noon. Change what the message names",
        events=("JobRefused",),
        retried=True,
    ),
    "a policy that names no reason denies the Job: told with the way out, and tried again": Case(
        request=job(),
        more={"refusal": FORBIDDEN},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="denied request: no Jobs today. Change what the message names",
        events=("JobRefused",),
        retried=True,
    ),
    "a webhook does not answer: told whom to tell, and tried again": Case(
        request=job(),
        more={"refusal": NO_ANSWER},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="connection refused. The policy server does not answer: tell who runs it",
        events=("JobRefused",),
        retried=True,
    ),
    "nobody knows why the Job is refused: the message has a way out all the same": Case(
        request=job(),
        more={"refusal": Refusal(403, "no.")},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="no. The message says who refused the Job: ask them.",
        events=("JobRefused",),
        retried=True,
    ),
    "the Job's name is taken by somebody else": Case(
        request=job(),
        more={"refusal": Refusal(409, f"a Job named {NAME} exists", taken=True)},
        rule="name taken",
        phase="Failed",
        category=Category.INTERNAL,
        said=NAME,
        events=("Internal",),
    ),
    "the object is being deleted: nothing": Case(
        request=job(status=RUNS, deletionTimestamp=DELETED), child=child(), rule="deleting"
    ),
    # --- pause
    "paused before it began: no Job is made": Case(
        request=job(PAUSE), rule="paused", phase="Suspended", reason="Suspended", events=("Suspended",)
    ),
    "paused, but its spec cannot be run: told at once": Case(
        request=job(PAUSE, INVALID),
        rule="refused spec",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        events=("InvalidWorkflow",),
    ),
    "paused while it runs: the Job is deleted": Case(
        request=job(PAUSE, status=RUNS, generation=2),
        child=child(),
        pods=[running()],
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        deletes=True,
        events=("Suspended",),
    ),
    "paused, but killed before the Job was deleted: delete it": Case(
        request=job(PAUSE, status=PAUSED), child=child(), rule="paused", deletes=True
    ),
    "paused, and the Job is on its way out: nothing": Case(
        request=job(PAUSE, status=PAUSED), child=child(deletionTimestamp=DELETED), rule="paused"
    ),
    "paused: nothing": Case(request=job(PAUSE, status=PAUSED), rule="paused"),
    "paused in a queue: the Job is deleted": Case(
        request=job(PAUSE, status=MADE),
        child=child(suspend=True),
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        deletes=True,
        events=("Suspended",),
    ),
    "paused when the Job was deleted by hand: a pause all the same": Case(
        request=job(PAUSE, status=RUNS),
        rule="paused",
        phase="Suspended",
        reason="Suspended",
        events=("Suspended",),
    ),
    "paused too late, the Job is complete: its result counts": Case(
        request=job(PAUSE, status=RUNS),
        child=child(status=ended("Complete")),
        pods=[succeeded()],
        rule="complete",
        phase="Succeeded",
        reason="Succeeded",
        events=("Succeeded",),
    ),
    "paused too late, the quantizer is done: wait for its Job": Case(
        request=job(PAUSE, status=RUNS), child=child(), pods=[succeeded()], rule="ending"
    ),
    "the pause ended: make a new Job": Case(request=job(status=PAUSED), rule="create", creates=True),
    "the pause ended, but the earlier Job is still there: wait for it": Case(
        request=job(status=PAUSED),
        child=child(deletionTimestamp=DELETED),
        pods=[running(deletionTimestamp=DELETED)],
        rule="stopping",
        phase="Pending",
        reason="Stopping",
        said=NAME,
    ),
    "the pause ended before the Job was deleted: it goes on": Case(
        request=job(status=PAUSED),
        child=child(),
        pods=[running()],
        rule="running",
        phase="Running",
        reason="Running",
        events=("JobCreated", "Started"),
    ),
    "a Job deleted by hand, with a pod that has not ended: as it is": Case(
        request=job(status=RUNS),
        child=child(deletionTimestamp=DELETED),
        pods=[running()],
        rule="running",
    ),
    "finished: a pause has no effect": Case(
        request=job(PAUSE, status=condition_status("Ready", "Succeeded")), rule="finished"
    ),
    # --- the output
    "another job has the output: refused before a pod is paid for": Case(
        request=job(),
        more={"peers": (OTHER,)},
        rule="output taken",
        phase="Failed",
        category=Category.ARTIFACT_CONFLICT,
        said="QuantizationJob other has the output s3://artifacts/stories15m-gptq",
        events=("ArtifactConflict",),
    ),
    "another job has the output, but this one runs: it goes on": Case(
        request=job(status=RUNS), child=child(), pods=[running()], more={"peers": (OTHER,)}, rule="running"
    ),
    "another job has the output, and this one is paused: judged when it goes on": Case(
        request=job(PAUSE, status=PAUSED), more={"peers": (OTHER,)}, rule="paused"
    ),
    "another job had the output, and is being deleted: wait": Case(
        request=job(),
        more={"peers": (replace(OTHER, deleting=True),)},
        rule="output in use",
        phase="Pending",
        reason="OutputInUse",
        said="other",
        events=("OutputInUse",),
        requeued=5.0,
    ),
    "another job succeeded at the output: the pod decides": Case(
        request=job(), more={"peers": (replace(OTHER, finished=True),)}, rule="create", creates=True
    ),
    # --- another controller
    "managed by another controller: nothing": Case(
        request=job(("managedBy", "kueue.x-k8s.io/multikueue")), rule="left alone"
    ),
    "managed by another controller, being deleted with our finalizer: nothing": Case(
        request=job(
            ("managedBy", "kueue.x-k8s.io/multikueue"),
            DELETE,
            finalizers=[FINALIZER],
            deletionTimestamp=DELETED,
        ),
        rule="left alone",
    ),
    "managed by us, by name": Case(
        request=job(("managedBy", "quantization.dev/operator")), rule="create", creates=True
    ),
    # --- the artifact goes with the object
    "the artifact is to go with it: the finalizer comes before the Job": Case(
        request=job(DELETE), rule="create", finalizers=(FINALIZER,)
    ),
    "the finalizer is there: make the Job": Case(
        request=job(DELETE, finalizers=[FINALIZER]), rule="create", creates=True
    ),
    "the policy was changed while it runs: the finalizer": Case(
        request=job(DELETE, status=RUNS), child=child(), rule="finalizer", finalizers=(FINALIZER,)
    ),
    "the policy was changed back: without it": Case(
        request=job(finalizers=[FINALIZER], status=condition_status("Ready")), rule="finalizer", finalizers=()
    ),
    "deleted while it runs: the Job is stopped first": Case(
        request=leaving(status=RUNS),
        child=child(),
        pods=[running()],
        rule="stop",
        deletes=True,
        requeued=600.0,
    ),
    "deleted, and the Job cannot be stopped: try again": Case(
        request=leaving(status=RUNS),
        child=child(),
        more={"refusal": NO_ANSWER},
        rule="stop",
        retried=True,
        requeued=588.0,
    ),
    "deleted, and the Job cannot be stopped for too long: let it go, and say so": Case(
        request=leaving(status=RUNS),
        child=child(),
        more={"refusal": NO_ANSWER, "problem": ("stop", NOW)},
        now=LATER,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "deleted long ago, while the operator was down, and the Job cannot be stopped: tried for a minute": Case(
        request=leaving(status=RUNS),
        child=child(),
        more={"refusal": NO_ANSWER, "problem": ("ImagePullFailed/x", NOW)},
        now=LATER,
        rule="stop",
        retried=True,
        requeued=60.0,
    ),
    "deleted, and the Job stops": Case(
        request=leaving(status=RUNS), child=child(deletionTimestamp=CREATED), rule="stop", requeued=588.0
    ),
    "deleted, and the Job does not stop: let it go, and say so": Case(
        request=leaving(status=RUNS),
        child=child(deletionTimestamp=CREATED),
        now=LATER,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "deleted, and the Job is gone: look before the artifact is removed": Case(
        request=leaving(status=RUNS), rule="clean up", look="objects"
    ),
    "deleted, no Job: remove the artifact": Case(
        request=leaving(status=RUNS), more=FRESH, rule="clean up", creates=True
    ),
    "deleted long ago, while the operator was down: it is tried all the same": Case(
        request=leaving(status=RUNS), more=FRESH, now=LATER, rule="clean up", creates=True
    ),
    "deleted after it ended: remove the artifact": Case(
        request=leaving(status=condition_status("Ready", "Succeeded")),
        child=child(status=ended("Complete")),
        more=FRESH,
        rule="clean up",
        creates=True,
    ),
    "the clean-up runs": Case(
        request=leaving(status=RUNS), more={"cleanup": cleanup()}, rule="clean up", requeued=588.0
    ),
    "the clean-up does not end: let it go, and say so": Case(
        request=leaving(status=RUNS),
        more={"cleanup": cleanup()},
        now=LATER,
        rule="released",
        releases=True,
        deletes=True,
        events=("ArtifactLeft",),
    ),
    "the clean-up failed: look why": Case(
        request=leaving(status=RUNS),
        more={"cleanup": cleanup(ended("Failed", "BackoffLimitExceeded"))},
        rule="clean up",
        look="objects",
    ),
    "the clean-up failed: let it go, and say so": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"cleanup": cleanup(ended("Failed", "BackoffLimitExceeded"))},
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "the clean-up is done: let it go": Case(
        request=leaving(status=RUNS),
        more={"cleanup": cleanup(ended("Complete"))},
        rule="cleaned up",
        releases=True,
    ),
    "the clean-up is refused by a quota: try again": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"refusal": Refusal(403, "exceeded quota")},
        rule="clean up",
        retried=True,
        requeued=588.0,
    ),
    "a webhook that names no code denies the clean-up: try again": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"refusal": DENIED},
        rule="clean up",
        retried=True,
        requeued=588.0,
    ),
    "the API server gives no answer to the clean-up: try again": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"refusal": Refusal(0, "POST /apis/batch/v1/...: ReadTimeoutError")},
        rule="clean up",
        retried=True,
        requeued=588.0,
    ),
    "deleted long ago, while the operator was down, and the clean-up is refused: tried for a minute": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"refusal": Refusal(503, "apiserver is shutting down")},
        now=LATER,
        rule="clean up",
        retried=True,
        requeued=60.0,
    ),
    "the clean-up is refused for too long: let it go, and say so": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"refusal": Refusal(403, "exceeded quota"), "problem": ("clean up", NOW)},
        now=LATER,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "its namespace goes: let it go at once, and say so": Case(
        request=leaving(status=RUNS),
        more=FRESH | {"refusal": Refusal(403, "forbidden: the namespace team is being terminated")},
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "its stored spec is not understood: let it go, and say so": Case(
        request=leaving(INVALID, status=RUNS),
        more=FRESH,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "another job has the same artifact: it is kept": Case(
        request=leaving(status=condition_status("Ready", "Succeeded")),
        more={"peers": (replace(OTHER, finished=True),)},
        rule="released",
        releases=True,
        events=("ArtifactKept",),
    ),
    # --- waiting
    "no pod yet": Case(child=child(), rule="waiting", now=NOW - timedelta(seconds=10), requeued=3.0),
    "no pod for a while: read the events of the Job": Case(child=child(), rule="waiting", look="events"),
    "no pod, and no event says why": Case(
        child=child(), more={"warnings": ()}, rule="waiting", requeued=15.0
    ),
    "pods refused by quota: told, and waited for": Case(
        child=child(),
        more={"warnings": (QUOTA,)},
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        said="exceeded quota",
        events=("PodRefused",),
        requeued=15.0,
    ),
    "quota is waited for without end": Case(
        child=child(),
        more={"warnings": (QUOTA,), "problem": ("Unschedulable/", NOW)},
        now=LATER,
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        events=("PodRefused",),
        requeued=300.0,
    ),
    "pods refused by Pod Security: out of patience": Case(
        child=child(),
        more={"warnings": (NOT_SECURE,), "problem": ("Unschedulable/", NOW)},
        now=LATER,
        rule="out of patience",
        phase="Failed",
        category=Category.UNSCHEDULABLE,
        said="PodSecurity",
        deletes=True,
        events=("Unschedulable",),
    ),
    "no node fits: shown while it waits": Case(
        child=child(),
        pods=[pod(node="", conditions=[unscheduled()])],
        now=LATER,
        rule="waiting",
        phase="Pending",
        reason="Unschedulable",
        said="Insufficient nvidia.com/gpu",
        events=("Unschedulable",),
    ),
    "starting on a node": Case(
        child=child(),
        pods=[waiting("ContainerCreating")],
        rule="waiting",
        phase="Pending",
        reason="Starting",
        said="on node node-1",
        requeued=18.0,
    ),
    "starting slowly: read the events of the pod": Case(
        child=child(), pods=[waiting("ContainerCreating")], now=LATER, rule="waiting", look="events"
    ),
    "an image that cannot be pulled: told, and patience begins": Case(
        child=child(),
        pods=[waiting("ErrImagePull", "not found")],
        rule="waiting",
        phase="Pending",
        reason="ImagePullFailed",
        said="not found",
        events=("ImagePullFailed",),
        requeued=120.0,
    ),
    "an image that cannot be pulled: patience ends": Case(
        child=child(),
        pods=[waiting("ImagePullBackOff", "Back-off")],
        more={"problem": (f"ImagePullFailed/{NAME}-abcde", NOW - timedelta(seconds=120))},
        rule="out of patience",
        phase="Failed",
        category=Category.IMAGE_PULL_FAILED,
        deletes=True,
        events=("ImagePullFailed",),
    ),
    "an image name that is none: at once": Case(
        child=child(),
        pods=[waiting("InvalidImageName", "couldn't parse")],
        rule="out of patience",
        phase="Failed",
        category=Category.IMAGE_PULL_FAILED,
        deletes=True,
        events=("ImagePullFailed",),
    ),
    "another problem than before: its own patience": Case(
        child=child(),
        pods=[waiting("CreateContainerConfigError", 'secret "s3" not found')],
        more={"problem": (f"ImagePullFailed/{NAME}-abcde", NOW - timedelta(hours=1))},
        rule="waiting",
        phase="Pending",
        reason="CreateContainerConfigError",
        events=("CreateContainerConfigError",),
        requeued=45.0,
    ),
    "a missing Secret: access denied": Case(
        child=child(),
        pods=[waiting("CreateContainerConfigError", 'secret "s3" not found')],
        more={"problem": (f"AccessDenied/{NAME}-abcde", NOW - timedelta(seconds=45))},
        rule="out of patience",
        phase="Failed",
        category=Category.ACCESS_DENIED,
        deletes=True,
        events=("AccessDenied",),
    ),
    "suspended by a queue": Case(
        child=child(suspend=True),
        rule="waiting",
        phase="Queued",
        reason="Queued",
        events=("Queued",),
        now=LATER,
    ),
    "suspended by Kueue, which was not asked yet": Case(child=in_queue(), rule="waiting", look="queue"),
    "in Kueue's line": Case(
        child=in_queue(),
        more={"queue": QueueEntry(NOW, "job-a", "no quota", position=3)},
        rule="waiting",
        phase="Queued",
        reason="Queued",
        said="position 3 in LocalQueue batch: no quota",
        events=("Queued",),
        requeued=8.0,
    ),
    "Kueue's answer is old": Case(
        child=in_queue(),
        more={"queue": QueueEntry(NOW - timedelta(seconds=8), "job-a", position=3)},
        rule="waiting",
        look="queue",
    ),
    "preempted by Kueue while its pod was starting": Case(
        child=in_queue(),
        more={
            "queue": QueueEntry(
                NOW, "job-a", evicted="Preempted", evicted_message="for a workload", position=1
            )
        },
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        said="for a workload",
        events=("Preempted",),
        requeued=6.0,
    ),
    "preempted by Kueue, its pod has saved its layers": Case(
        request=job(status=RUNS),
        child=in_queue(),
        pods=[terminated(143)],
        more={"queue": QueueEntry(NOW, "job-a", evicted="Preempted", position=1), "disruptions": 1},
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        events=("Disrupted", "Preempted"),
        requeued=6.0,
    ),
    "suspended after it ran": Case(
        request=job(status=RUNS),
        child=child(suspend=True),
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        events=("Preempted",),
    ),
    # --- running
    "it runs": Case(
        child=child(),
        pods=[running()],
        rule="running",
        phase="Running",
        reason="Running",
        said="on node node-1",
        events=("Started",),
    ),
    "a lost node: told with the way out, and waited for": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[running(conditions=[disruption("DeletionByTaintManager")], deletionTimestamp=DELETED)],
        more={"disruptions": 1},
        now=LATER,
        rule="waiting",
        phase="Pending",
        reason="NodeLost",
        said="Bring the node back; or, when it is off: kubectl taint node node-1 node.kubernetes.io/out-of-service",
        events=("Disrupted", "NodeLost"),
    ),
    "evicted, a new pod is not there yet": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"disruptions": 1},
        now=EVICTION + timedelta(seconds=5),
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
        requeued=15.0,
    ),
    "evicted, by the clock of a node that is ahead": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"disruptions": 1},
        now=EVICTION - timedelta(hours=1),
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
        requeued=20.0,
    ),
    "evicted, and no new pod for a while: read the events of the Job": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        now=EVICTION + timedelta(seconds=20),
        rule="waiting",
        look="events",
    ),
    "evicted, and quota refuses the new pod: told, and waited for": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"warnings": (replace(QUOTA, last_seen=EVICTION),), "disruptions": 1},
        now=EVICTION + timedelta(seconds=20),
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        said="exceeded quota: gpus. Lower or set spec.template.resources",
        events=("Disrupted", "PodRefused"),
        requeued=15.0,
    ),
    "evicted, and quota had refused the pod that was evicted: of the past": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[EVICTED],
        more={"warnings": (replace(QUOTA, last_seen=NOW - timedelta(seconds=3)),), "disruptions": 1},
        now=EVICTION + timedelta(seconds=20),
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
        requeued=15.0,
    ),
    "evicted, and Pod Security refuses the new pod: out of patience": Case(
        request=job(status=condition_status("Reconciling", "PodRefused")),
        child=child(),
        pods=[EVICTED],
        more={
            "warnings": (replace(NOT_SECURE, last_seen=EVICTION),),
            "problem": ("Unschedulable/", EVICTION + timedelta(seconds=20)),
        },
        now=EVICTION + timedelta(seconds=65),
        rule="out of patience",
        phase="Failed",
        category=Category.UNSCHEDULABLE,
        said="PodSecurity",
        deletes=True,
        events=("Unschedulable",),
    ),
    "a failed attempt that is tried again": Case(
        request=job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[FAILED_ONCE],
        now=EVICTION + timedelta(seconds=5),
        rule="waiting",
        phase="Pending",
        reason="Retrying",
        said="StorageUnavailable: no answer",
        events=("AttemptFailed",),
        requeued=15.0,
    ),
    "a failed attempt, and the back-off is long: looked at more and more rarely": Case(
        request=job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[FAILED_ONCE],
        more={"warnings": ()},
        now=EVICTION + timedelta(seconds=400),
        rule="waiting",
        phase="Pending",
        reason="Retrying",
        events=("AttemptFailed",),
        requeued=100.0,
    ),
    "a failed attempt, and a webhook refuses the next: told": Case(
        request=job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[FAILED_ONCE],
        more={"warnings": (KubernetesWarning("FailedCreate", DENIED.message, EVICTION),)},
        now=EVICTION + timedelta(seconds=25),
        rule="waiting",
        phase="Pending",
        reason="PodRefused",
        said="not before noon. Change what the message names",
        events=("AttemptFailed", "PodRefused"),
        requeued=15.0,
    ),
    # --- the end
    "out of memory: ended by us, since the Job would try again": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[terminated(137, reason="OOMKilled")],
        rule="hopeless",
        phase="Failed",
        category=Category.HOST_OUT_OF_MEMORY,
        deletes=True,
        events=("HostOutOfMemory",),
    ),
    "a permanent exit code: the Job ends by itself, wait for it": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[terminated(66, failed_result("ModelNotFound"))],
        rule="ending",
    ),
    "the pod succeeded: the Job completes by itself, wait for it": Case(
        request=job(status=RUNS), child=child(), pods=[succeeded()], rule="ending"
    ),
    "the quantizer succeeded, its pod is not done yet: nothing": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[succeeded(phase="Running")],
        now=LATER,
        rule="ending",
    ),
    "the quantizer failed for good, its pod is not done yet: nothing": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[terminated(66, phase="Running")],
        now=LATER,
        rule="ending",
    ),
    "the Job failed: look again before saying why": Case(
        child=child(status=ended("Failed", "PodFailurePolicy")), rule="job failed", look="objects"
    ),
    "the Job failed": Case(
        child=child(status=ended("Failed", "PodFailurePolicy")),
        pods=[terminated(66, failed_result("ModelNotFound"))],
        more=FRESH,
        rule="job failed",
        phase="Failed",
        category=Category.MODEL_NOT_FOUND,
        events=("ModelNotFound",),
    ),
    "the deadline passed": Case(
        child=child(
            status=ended("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
        ),
        more=FRESH,
        rule="job failed",
        phase="Failed",
        category=Category.DEADLINE_EXCEEDED,
        events=("DeadlineExceeded",),
    ),
    "the Job is complete, its pod is not known yet: look": Case(
        child=child(status=ended("Complete")), pods=[running()], rule="complete", look="objects"
    ),
    "the Job is complete, with a result": Case(
        request=job(status=RUNS),
        child=child(status=ended("Complete")),
        pods=[succeeded()],
        rule="complete",
        phase="Succeeded",
        reason="Succeeded",
        said="s3://artifacts/stories15m-gptq",
        events=("Succeeded",),
    ),
    "the Job is complete, without a valid result": Case(
        child=child(status=ended("Complete")),
        pods=[terminated(0, "done")],
        rule="complete without a result",
        phase="Failed",
        category=Category.INTERNAL,
        events=("Internal",),
    ),
    "the Job is complete, and its pod is gone": Case(
        child=child(status=ended("Complete")),
        more=FRESH,
        rule="complete without a result",
        phase="Failed",
        category=Category.INTERNAL,
        said="removed before its result",
        events=("Internal",),
    ),
    "the Job is not in the cache: look again before saying that it is gone": Case(
        rule="job deleted", look="objects"
    ),
    "the Job was deleted": Case(
        more=FRESH,
        rule="job deleted",
        phase="Failed",
        category=Category.JOB_DELETED,
        said=NAME,
        events=("JobDeleted",),
    ),
    # --- after the end
    "finished, with time to live: come back when it is over": Case(
        request=job(TTL, status=condition_status("Ready", completionTime=CREATED)),
        rule="finished",
        requeued=48.0,
    ),
    "finished, and its time is over: delete the object": Case(
        request=job(TTL, status=condition_status("Ready", completionTime=CREATED)),
        now=LATER,
        rule="expired",
        removes=True,
    ),
    "failed, and its time is over: delete the object": Case(
        request=job(TTL, status=condition_status("Stalled", "Internal", completionTime=CREATED)),
        now=LATER,
        rule="expired",
        removes=True,
    ),
    "the time to live was set after the end, and is over": Case(
        request=job(TTL, status=condition_status("Ready", completionTime=CREATED), generation=2),
        now=LATER,
        rule="expired",
        removes=True,
    ),
    "its time is over, but it is already going": Case(
        request=job(TTL, status=condition_status("Ready", completionTime=CREATED), deletionTimestamp=DELETED),
        now=LATER,
        rule="deleting",
    ),
    "succeeded: nothing more": Case(
        request=job(status=condition_status("Ready", "Succeeded")),
        child=child(status=ended("Complete")),
        rule="finished",
    ),
    "succeeded stays so when the Job is cleaned up": Case(
        request=job(status=condition_status("Ready", "Succeeded")), more=FRESH, rule="finished"
    ),
    "failed, but the Job still tries (killed before it was deleted): delete it": Case(
        request=job(status=condition_status("Stalled", "ImagePullFailed")),
        child=child(),
        rule="finished",
        deletes=True,
    ),
    "failed, and the Job is on its way out": Case(
        request=job(status=condition_status("Stalled", "ImagePullFailed")),
        child=child(deletionTimestamp=DELETED),
        rule="finished",
    ),
    "finished, and the spec was changed: only observed": Case(
        request=job(status=condition_status("Ready", "Succeeded", completionTime=CREATED), generation=2),
        rule="finished",
        phase="Succeeded",
        reason="Succeeded",
    ),
    "refused before any Job was made, and the spec was corrected: judged again": Case(
        request=job(
            status={
                k: v for k, v in condition_status("Stalled", "InvalidWorkflow").items() if k != "jobName"
            },
            generation=2,
        ),
        rule="create",
        creates=True,
    ),
    "the spec was changed after the Job was made: told that it has no effect": Case(
        request=job(status=RUNS, generation=2),
        child=child(),
        pods=[running()],
        rule="running",
        phase="Running",
        reason="Running",
        events=("ChangeIgnored",),
    ),
}


def decide(case: Case) -> Decision:
    return reconcile(observe(case), SETTINGS, case.now)


@pytest.mark.parametrize("name", CASES)
def test_a_decision_follows_from_what_is_observed(name: str) -> None:
    case = CASES[name]
    decision = decide(case)
    assert decision.rule == case.rule
    assert decision.look == case.look
    assert (decision.create is not None) == case.creates
    assert (decision.delete is not None) == case.deletes
    assert decision.finalizers == case.finalizers
    assert (decision.release, decision.remove) == (case.releases, case.removes)
    assert decision.retry == case.retried
    assert tuple(event.reason for event in decision.events) == case.events
    if case.requeued is None:
        assert decision.requeue_after is None
    else:
        assert decision.requeue_after == pytest.approx(case.requeued)
    if case.phase is None:
        return
    assert decision.status is not None
    assert decision.status.phase == case.phase
    ready = next(c for c in decision.status.conditions if c.type == "Ready")
    assert ready.reason == (case.category or case.reason)
    assert case.said in ready.message
    assert (decision.status.failure.category if decision.status.failure else None) == case.category
    assert (decision.status.completion_time is not None) == (case.phase in ("Succeeded", "Failed"))
    assert decision.status.observed_generation == case.request["metadata"]["generation"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.phase])
def test_a_decision_that_was_carried_out_asks_for_no_second_write(name: str) -> None:
    case = CASES[name]
    status = decide(case).status
    assert status is not None
    body = case.request | {"status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}
    again = decide(replace(case, request=body))
    assert again.status is None
    assert again.events == ()


def test_a_status_has_what_a_person_looks_for() -> None:
    case = CASES["the Job is complete, with a result"]
    status = decide(case).status
    assert status is not None
    assert status.job_name == NAME
    assert status.passes == "GptqQuantizer"
    assert status.start_time == CREATED
    assert status.completion_time == "2026-01-01T00:10:00Z"
    assert status.artifact is not None
    assert status.artifact.manifest_digest == "sha256:" + "b" * 64
    assert status.recipe == "sha256:" + "a" * 64
    assert [metric.name for metric in status.metrics] == ["ppl"]
    assert status.progress is not None
    assert status.progress.percent == 100


def test_the_first_status_names_the_passes() -> None:
    status = decide(Case(request=job(), child=child(), more={"warnings": ()})).status
    assert status is not None
    assert status.passes == "GptqQuantizer"


@pytest.mark.parametrize(
    ("written", "seen", "seconds_ago", "expected"),
    [
        (None, 0, None, 0),
        (40, 41, 6, 41),
        (40, 41, 4, 40),
        (40, 40, 60, 40),
    ],
    ids=["the first", "a percent and 5 s later", "too early", "nothing new"],
)
def test_progress_is_written_at_a_bounded_rate(
    written: int | None, seen: int, seconds_ago: float | None, expected: int
) -> None:
    status = RUNS | ({"progress": {"percent": written, "stage": "quantize"}} if written is not None else {})
    last = None if seconds_ago is None else NOW - timedelta(seconds=seconds_ago)
    more = {"progress": Progress(percent=seen, stage="quantize"), "progress_written": last}
    case = Case(request=job(status=status), child=child(), pods=[running()], more=more)
    decision = decide(case)
    progress = (decision.status or JobRequest.of(case.request).read_status()).progress
    assert progress is not None
    assert progress.percent == expected


def test_attempts_never_shrink_and_a_restarted_node_is_not_blamed_on_the_job() -> None:
    counted = RUNS | {"attempts": {"failed": 2, "disrupted": 3}}
    for pods, failed, expected in (
        ([running()], 0, (2, 3)),
        ([running(), *(terminated(75, name=name) for name in "xyz")], 3, (3, 3)),
        ([running(), terminated(137, reason="ContainerStatusUnknown", name="x")], 3, (2, 4)),
        (
            [running()],
            3,
            (2, 3),
        ),  # of the pod that is the third, nothing is known: it may have been forgotten
    ):
        body = child(status={"failed": failed})
        case = Case(request=job(status=counted), child=body, pods=pods, more={"disruptions": 3})
        status = decide(case).status or JobRequest.of(case.request).read_status()
        assert status.attempts is not None
        assert (status.attempts.failed, status.attempts.disrupted) == expected


def test_attempts_are_carried_over_a_pause() -> None:
    counted = RUNS | {"attempts": {"failed": 2, "disrupted": 1}}
    body = job(("backoffLimit", 3), PAUSE, status=counted)
    paused = decide(Case(request=body, child=child(status={"failed": 2}), more={"disruptions": 1})).status
    assert paused is not None
    assert paused.job_name is None
    written = paused.model_dump(mode="json", by_alias=True, exclude_none=True)
    made = decide(Case(request=job(("backoffLimit", 3), status=written))).create
    assert made is not None
    assert made["spec"]["backoffLimit"] == 1
    second = child(status={"failed": 1}, annotations=made["metadata"]["annotations"])
    pods = [running(), terminated(75, name="x")]
    after = decide(Case(request=job(status=written), child=second, pods=pods)).status
    assert after is not None
    assert after.attempts is not None
    assert (after.attempts.failed, after.attempts.disrupted) == (3, 1)
    assert made["metadata"]["annotations"] == {FAILED_BEFORE_ANNOTATION: "2"}


def test_a_pause_is_neither_progress_nor_failure() -> None:
    status = decide(CASES["paused while it runs: the Job is deleted"]).status
    assert status is not None
    assert {c.type: c.status for c in status.conditions} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "True",
    }


@pytest.mark.parametrize("began", [1, 3600], ids=["deleted while it runs", "deleted while it was down"])
@pytest.mark.parametrize(
    "made", [child(), None], ids=["its Job cannot be stopped", "no clean-up can be made"]
)
def test_what_is_refused_is_tried_until_the_bound_and_then_left(
    made: dict[str, Any] | None, began: int
) -> None:
    """Each step of a process that remembers what it decided: it tries, is refused, and comes back."""
    started = datetime.fromisoformat(CREATED) + timedelta(seconds=began)
    expected = max(600 - began, 60)
    now, problem = started, None
    while now <= started + timedelta(seconds=expected):
        case = Case(request=leaving(status=RUNS), child=made, more=FRESH | {"problem": problem}, now=now)
        tried = decide(case)
        assert tried.delete is not None or tried.create is not None
        problem = (
            tried.problem if tried.delete else problem
        )  # before it creates, the controller remembers nothing
        refusal = replace(NO_ANSWER, retry_after=7)
        decision = decide(replace(case, more=FRESH | {"problem": problem, "refusal": refusal}))
        if decision.release:
            break
        assert (decision.retry, decision.retry_after) == (True, 7)
        assert decision.requeue_after is not None
        problem, now = decision.problem, now + timedelta(seconds=min(decision.requeue_after, 10))
    assert decision.release
    assert (now - started).total_seconds() == pytest.approx(expected)
    (event,) = decision.events
    assert event.type == "Warning"
    assert NO_ANSWER.message in event.message


def test_a_refused_job_is_not_tried_before_the_api_server_wants_it() -> None:
    refusal = replace(DENIED, code=429, retry_after=30.0)
    assert decide(Case(request=job(), more={"refusal": refusal})).retry_after == 30.0


def test_what_was_left_and_why_is_told() -> None:
    case = CASES["the clean-up failed: let it go, and say so"]
    why = ChildPod.of(terminated(77, "AccessDenied: output: s3://artifacts: access denied"))
    observed = replace(observe(case), cleanup_pods=(why,))
    (event,) = reconcile(observed, SETTINGS, NOW).events
    assert event.type == "Warning"
    assert "s3://artifacts/stories15m-gptq" in event.message
    assert "access denied" in event.message


def test_the_clean_up_is_told_the_recipe_of_a_success_that_was_never_written() -> None:
    case = replace(
        CASES["deleted after it ended: remove the artifact"], request=leaving(status=RUNS), pods=[succeeded()]
    )
    made = decide(case).create
    assert made is not None
    assert "--recipe=sha256:" + "a" * 64 in made["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_end_of_a_job_begins_its_time_to_live() -> None:
    for name in (
        "the Job is complete, with a result",
        "out of memory: ended by us, since the Job would try again",
    ):
        case = replace(CASES[name], request=job(TTL, status=RUNS), now=LATER)
        left = decide(case).requeue_after
        assert left == (0.0 if "complete" in name else 60.0), name


def test_a_corrected_spec_leaves_nothing_of_its_refusal() -> None:
    refused = condition_status(
        "Stalled",
        "InvalidWorkflow",
        completionTime=CREATED,
        failure={"category": "InvalidWorkflow", "message": "no"},
    )
    del refused["jobName"], refused["startTime"]
    status = decide(Case(request=job(status=refused, generation=2), child=child(), pods=[running()])).status
    assert status is not None
    assert status.phase == "Running"
    assert (status.failure, status.completion_time) == (None, None)


def test_a_status_of_an_older_schema_does_not_stop_a_job() -> None:
    old = RUNS | {"phase": "Crunching", "shards": [1, 2]}
    decision = decide(Case(request=job(status=old), child=child(), pods=[running()]))
    assert decision.status is not None
    assert decision.status.phase == "Running"


def test_patience_with_an_unschedulable_pod_is_a_setting() -> None:
    settings = SETTINGS.model_copy(update={"unschedulable_patience_seconds": 60.0})
    body = pod(node="", conditions=[unscheduled()])
    case = Case(
        child=child(),
        pods=[body],
        more={"problem": (f"Unschedulable/{NAME}-abcde", NOW - timedelta(minutes=1))},
    )
    decision = reconcile(observe(case), settings, NOW)
    assert decision.rule == "out of patience"
    assert decision.delete is not None
    assert decision.delete.uid == JOB_UID


def test_what_is_written_fits_the_contract() -> None:
    for case in CASES.values():
        status = decide(case).status
        if status is not None:
            text = json.dumps(status.model_dump(mode="json", by_alias=True, exclude_none=True))
            QuantizationJobStatus.model_validate_json(text)
