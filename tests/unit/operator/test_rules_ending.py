"""How a job ends, and what follows (`rules/ending.py`)."""

from dataclasses import replace

import pytest
from tests.support.cluster_objects import (
    CREATED,
    JOB_UID,
    NAME,
    child,
    condition_status,
    ended,
    failed_result,
    quantization_job,
    running,
    succeeded,
    terminated,
)
from tests.support.decisions import (
    DELETED,
    FRESH,
    LATER,
    RUNS,
    Case,
    decide,
    verify,
)

from quantization_api.failures import Category

pytestmark = pytest.mark.unit

TTL = ("ttlSecondsAfterFinished", 60)

CASES: dict[str, Case] = {
    # --- the end
    "out of memory: ended by us, since the Job would try again": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[terminated(137, reason="OOMKilled")],
        rule="hopeless",
        phase="Failed",
        category=Category.HOST_OUT_OF_MEMORY,
        deletes=True,
        events=("HostOutOfMemory",),
    ),
    "a permanent exit code: the Job ends by itself, wait for it": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[terminated(66, failed_result("ModelNotFound"))],
        rule="ending",
    ),
    "the pod succeeded: the Job completes by itself, wait for it": Case(
        qjob=quantization_job(status=RUNS), child=child(), pods=[succeeded()], rule="ending"
    ),
    "the quantizer succeeded, its pod is not done yet: nothing": Case(
        qjob=quantization_job(status=RUNS),
        child=child(),
        pods=[succeeded(phase="Running")],
        now=LATER,
        rule="ending",
    ),
    "the quantizer failed for good, its pod is not done yet: nothing": Case(
        qjob=quantization_job(status=RUNS),
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
        qjob=quantization_job(status=RUNS),
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
    "the Job was deleted before its name was in the status": Case(
        qjob=quantization_job(),
        more=FRESH | {"adopted": JOB_UID},
        rule="job deleted",
        phase="Failed",
        category=Category.JOB_DELETED,
        said=NAME,
        events=("JobCreated", "JobDeleted"),
    ),
    "a Job that was asked for earlier has the name: look whether the first is gone": Case(
        child=child(uid="late"), more={"adopted": JOB_UID}, rule="job deleted", look="objects"
    ),
    "a Job that was asked for earlier has the name of the one that was deleted: it goes too": Case(
        child=child(uid="late"),
        pods=[running()],
        more=FRESH | {"adopted": JOB_UID},
        rule="job deleted",
        phase="Failed",
        category=Category.JOB_DELETED,
        said=NAME,
        deletes=True,
        events=("JobDeleted",),
    ),
    # --- after the end
    "finished, with time to live: come back when it is over": Case(
        qjob=quantization_job(TTL, status=condition_status("Ready", completionTime=CREATED)),
        rule="finished",
        requeued=48.0,
    ),
    "finished, and its time is over: delete the object": Case(
        qjob=quantization_job(TTL, status=condition_status("Ready", completionTime=CREATED)),
        now=LATER,
        rule="expired",
        removes=True,
    ),
    "failed, and its time is over: delete the object": Case(
        qjob=quantization_job(TTL, status=condition_status("Stalled", "Internal", completionTime=CREATED)),
        now=LATER,
        rule="expired",
        removes=True,
    ),
    "the time to live was set after the end, and is over": Case(
        qjob=quantization_job(TTL, status=condition_status("Ready", completionTime=CREATED), generation=2),
        now=LATER,
        rule="expired",
        removes=True,
    ),
    "its time is over, but it is already going": Case(
        qjob=quantization_job(
            TTL, status=condition_status("Ready", completionTime=CREATED), deletionTimestamp=DELETED
        ),
        now=LATER,
        rule="deleting",
    ),
    "succeeded: nothing more": Case(
        qjob=quantization_job(status=condition_status("Ready", "Succeeded")),
        child=child(status=ended("Complete")),
        rule="finished",
    ),
    "succeeded stays so when the Job is cleaned up": Case(
        qjob=quantization_job(status=condition_status("Ready", "Succeeded")), more=FRESH, rule="finished"
    ),
    "failed, but the Job still tries (killed before it was deleted): delete it": Case(
        qjob=quantization_job(status=condition_status("Stalled", "ImagePullFailed")),
        child=child(),
        rule="finished",
        deletes=True,
    ),
    "failed, and the Job is on its way out": Case(
        qjob=quantization_job(status=condition_status("Stalled", "ImagePullFailed")),
        child=child(deletionTimestamp=DELETED),
        rule="finished",
    ),
    "finished, and the spec was changed: only observed": Case(
        qjob=quantization_job(
            status=condition_status("Ready", "Succeeded", completionTime=CREATED), generation=2
        ),
        rule="finished",
        phase="Succeeded",
        reason="Succeeded",
    ),
    "refused before any Job was made, and the spec was corrected: judged again": Case(
        qjob=quantization_job(
            status={
                k: v for k, v in condition_status("Stalled", "InvalidWorkflow").items() if k != "jobName"
            },
            generation=2,
        ),
        rule="create",
        creates=True,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_is_observed(case: Case) -> None:
    verify(case)


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


def test_the_end_of_a_job_begins_its_time_to_live() -> None:
    for name in (
        "the Job is complete, with a result",
        "out of memory: ended by us, since the Job would try again",
    ):
        case = replace(CASES[name], qjob=quantization_job(TTL, status=RUNS), now=LATER)
        left = decide(case).requeue_after
        assert left == (0.0 if "complete" in name else 60.0), name
