"""The decisions of the operator, as a table: what is observed, and what follows."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    JOB_UID,
    NAME,
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
from quantization_operator.reconcile import Decision, Observed, Refusal, reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, JobRequest, KubernetesWarning

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


FRESH = {"fresh": True}
SUSPENDED = job(("suspend", True))
PROGRESS = Progress(percent=40, stage="quantize", layer=2, layers=6, eta_seconds=30)
QUOTA = KubernetesWarning("FailedCreate", "exceeded quota: gpus", NOW)
NOT_SECURE = KubernetesWarning("FailedCreate", 'violates PodSecurity "restricted"', NOW)
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
        request=SUSPENDED,
        rule="refused spec",
        phase="Failed",
        category=Category.INVALID_WORKFLOW,
        said="suspend is not available",
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
    "a webhook or a quota refuses the Job: told, and tried again": Case(
        request=job(),
        more={"refusal": Refusal(403, "exceeded quota: count/jobs.batch")},
        rule="refused job",
        phase="Pending",
        reason="JobRefused",
        said="exceeded quota",
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
        said="is replaced when it is gone",
        events=("Disrupted", "NodeLost"),
    ),
    "evicted, a new pod is not there yet": Case(
        request=job(status=RUNS),
        child=child(),
        pods=[terminated(143, conditions=[disruption()])],
        more={"disruptions": 1},
        rule="waiting",
        phase="Pending",
        reason="Disrupted",
        events=("Disrupted",),
    ),
    "a failed attempt that is tried again": Case(
        request=job(status=RUNS),
        child=child(status={"failed": 1}),
        pods=[terminated(75, failed_result("StorageUnavailable", "no answer"))],
        rule="waiting",
        phase="Pending",
        reason="Retrying",
        said="StorageUnavailable: no answer",
        events=("AttemptFailed",),
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
        ([running(), terminated(75, name="x")], 3, (3, 3)),
        ([running(), terminated(137, reason="ContainerStatusUnknown", name="x")], 3, (2, 4)),
    ):
        body = child(status={"failed": failed})
        case = Case(request=job(status=counted), child=body, pods=pods, more={"disruptions": 3})
        status = decide(case).status or JobRequest.of(case.request).read_status()
        assert status.attempts is not None
        assert (status.attempts.failed, status.attempts.disrupted) == expected


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
