"""A search whose pods work side by side: what each state of theirs means for the whole (`rules/searching.py`)."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    ENDED,
    FOUND,
    SEARCHED,
    STARTED,
    child,
    condition_status,
    disruption,
    ended,
    failed_result,
    pod,
    quantization_job,
    running,
    terminated,
    unscheduled,
    waiting,
)
from tests.support.decisions import DELETED, FRESH, LATER, NOW, QUOTA, RUNS, Case, decide, verify

from quantization_api.failures import Category
from quantization_api.pod import RunProgress
from quantization_api.status import Failure, Progress, Trials
from quantization_operator.rules.searching import STRAGGLER_SECONDS
from quantization_operator.snapshots import QuantizationJob

pytestmark = pytest.mark.unit

RUNNING = quantization_job(status=RUNS)
AFTER = datetime.fromisoformat(ENDED) + timedelta(seconds=10)
LONG_AFTER = AFTER + timedelta(seconds=STRAGGLER_SECONDS)
FAILED_ONCE = terminated(75, failed_result("StorageUnavailable", "no answer"), name="a")
WRONG = terminated(66, failed_result("ModelNotFound"), name="a")
EVICTED = terminated(143, conditions=[disruption()], name="a")
NO_IMAGE = waiting("ErrImagePull", "i/o timeout", name="b")
LOST = running(conditions=[disruption("DeletionByTaintManager")], deletionTimestamp=DELETED, name="a")


def found(**more: Any) -> dict[str, Any]:
    """A worker that left the result of the search."""
    return terminated(0, SEARCHED.to_message(), **more)


CASES: dict[str, Case] = {
    # --- they begin
    "no pod yet": Case(
        qjob=RUNNING,
        child=child(workers=4),
        rule="waiting",
        phase="Pending",
        reason="Starting",
        said="waiting for its pod",
        now=NOW - timedelta(seconds=10),
        requeued=3.0,
    ),
    "all wait for a node": Case(
        child=child(workers=2),
        pods=[pod(conditions=[unscheduled()], node="", name=name) for name in "ab"],
        rule="waiting",
        phase="Pending",
        reason="Unschedulable",
        said="Insufficient nvidia.com/gpu",
        events=("Unschedulable",),
    ),
    "all run": Case(
        child=child(workers=2),
        pods=[running(name="a"), running(name="b")],
        rule="running",
        phase="Running",
        reason="Running",
        said="2 workers run",
        events=("Started",),
    ),
    "three of four run, one starts": Case(
        child=child(workers=4),
        pods=[*(running(name=name) for name in "abc"), waiting("ContainerCreating", name="d")],
        rule="running",
        phase="Running",
        reason="Running",
        said="3 of 4 workers run; pod d is starting on node node-1",
        events=("Started",),
        requeued=18.0,
    ),
    "three of four run, one waits for a node: told, and waited for without end": Case(
        qjob=RUNNING,
        child=child(workers=4),
        pods=[
            *(running(name=name) for name in "abc"),
            pod(conditions=[unscheduled()], node="", name="d"),
        ],
        now=LATER,
        rule="running",
        phase="Running",
        reason="Running",
        said="3 of 4 workers run; the others wait: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        requeued=300.0,
    ),
    "one runs, the image of the other does not come: no patience ends what works": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[running(name="a"), NO_IMAGE],
        now=LATER,
        more={"problem": ("ImagePullFailed/b", NOW)},
        rule="running",
        phase="Running",
        reason="Running",
        said="1 of 2 workers run; the others wait: ErrImagePull: i/o timeout. The node cannot reach the registry",
        requeued=300.0,
    ),
    "none runs, and the image of one does not come: as of one pod": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[EVICTED, NO_IMAGE],
        now=LATER,
        more={"problem": ("ImagePullFailed/b", NOW)},
        rule="out of patience",
        phase="Failed",
        category=Category.IMAGE_PULL_FAILED,
        deletes=True,
        events=("ImagePullFailed",),
    ),
    "one runs, the other does not start: its events are looked at": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[running(name="a"), waiting("ContainerCreating", name="b")],
        now=LATER,
        rule="waiting",
        look="events",
    ),
    "one runs, the other was not made: the Job's events are looked at": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[running(name="a")],
        now=LATER,
        rule="waiting",
        look="events",
    ),
    "one runs, a quota refuses the other": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[running(name="a")],
        now=datetime.fromisoformat(STARTED) + timedelta(seconds=2),
        more={"warnings": (QUOTA,)},
        rule="running",
        phase="Running",
        reason="Running",
        said="1 of 2 workers run; the others wait: exceeded quota: gpus. Lower or set",
        requeued=15.0,
    ),
    # --- one is lost
    "one was evicted, the others go on: counted as no failure": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[EVICTED, running(name="b")],
        now=AFTER,
        more={"disruptions": 1},
        rule="running",
        phase="Running",
        reason="Running",
        said="1 of 2 workers run; the others are to be made again",
        events=("Disrupted",),
        requeued=10.0,
    ),
    "one failed in a way that may heal: counted, the others go on": Case(
        qjob=RUNNING,
        child=child(workers=2, status={"failed": 1}),
        pods=[FAILED_ONCE, running(name="b")],
        now=AFTER,
        rule="running",
        phase="Running",
        reason="Running",
        said="1 of 2 workers run",
        events=("AttemptFailed",),
        requeued=10.0,
    ),
    "the node of one is lost, another runs": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[LOST, running(name="b")],
        more={"disruptions": 1},
        rule="running",
        phase="Running",
        reason="Running",
        said="1 of 2 workers run; the others wait: node node-1 stopped answering",
        events=("Disrupted",),
    ),
    "all failed: the next attempt is waited for": Case(
        qjob=RUNNING,
        child=child(workers=2, status={"failed": 2}),
        pods=[FAILED_ONCE, terminated(75, failed_result("StorageUnavailable", "no answer"), name="b")],
        now=AFTER,
        rule="waiting",
        phase="Pending",
        reason="Retrying",
        said="no answer",
        events=("AttemptFailed",),
        requeued=10.0,
    ),
    "one failed for good, others still run: the Job ends them": Case(
        qjob=RUNNING, child=child(workers=2), pods=[WRONG, running(name="b")], rule="ending"
    ),
    "one ran out of memory: the next would, too": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[terminated(137, reason="OOMKilled", name="a"), running(name="b")],
        rule="hopeless",
        phase="Failed",
        category=Category.HOST_OUT_OF_MEMORY,
        deletes=True,
        events=("HostOutOfMemory",),
    ),
    "the Job failed by one pod: that one says why, whatever became of newer ones": Case(
        qjob=RUNNING,
        child=child(workers=3, status=ended("Failed", "PodFailurePolicy", failed=3)),
        pods=[
            WRONG,
            terminated(75, failed_result("StorageUnavailable"), name="b"),
            terminated(143, failed_result("Disrupted"), name="c"),
        ],
        more=FRESH,
        rule="job failed",
        phase="Failed",
        category=Category.MODEL_NOT_FOUND,
        events=("ModelNotFound",),
    ),
    # --- the search ends
    "one published the result, another runs: it is to end by itself": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[found(name="a"), running(name="b")],
        now=AFTER,
        rule="running",
        phase="Running",
        reason="Running",
        said="the result is published",
        requeued=STRAGGLER_SECONDS - 10,
    ),
    "one published the result, another starts only now": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[found(name="a"), NO_IMAGE],
        now=AFTER,
        rule="running",
        phase="Running",
        reason="Running",
        said="the result is published",
        requeued=STRAGGLER_SECONDS - 10,
    ),
    "one published the result, another does not end: not waited for without end": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[found(name="a"), running(name="b")],
        now=LONG_AFTER,
        rule="published",
        phase="Succeeded",
        reason="Succeeded",
        said="the best of 24 points is gptq.bits=4: ppl 10.2; the artifact is at s3://artifacts/stories15m-gptq",
        deletes=True,
        events=("Succeeded",),
    ),
    "one published the result, another ran out of memory after it: no failure": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[found(name="a"), terminated(137, reason="OOMKilled", name="b")],
        now=AFTER,
        rule="running",
        phase="Running",
        reason="Running",
        said="the result is published",
        events=("AttemptFailed",),
        requeued=STRAGGLER_SECONDS - 10,
    ),
    "one published the result, and then the Job failed: the result is there": Case(
        qjob=RUNNING,
        child=child(workers=2, status=ended("Failed", "DeadlineExceeded")),
        pods=[found(name="a"), terminated(143, name="b")],
        more=FRESH,
        rule="published",
        phase="Succeeded",
        reason="Succeeded",
        events=("Succeeded",),
    ),
    "all ended well: the Job completes by itself, wait for it": Case(
        qjob=RUNNING,
        child=child(workers=2),
        pods=[found(name="a"), found(name="b")],
        now=AFTER,
        rule="ending",
    ),
    "the Job is complete": Case(
        qjob=RUNNING,
        child=child(workers=2, status=ended("Complete")),
        pods=[found(name="a"), found(name="b")],
        rule="complete",
        phase="Succeeded",
        reason="Succeeded",
        said="the best of 24 points is gptq.bits=4",
        events=("Succeeded",),
    ),
    "the Job is complete, and one of its pods left nothing that can be read": Case(
        qjob=RUNNING,
        child=child(workers=2, status=ended("Complete")),
        pods=[found(name="a"), terminated(0, "done", name="b")],
        rule="complete",
        phase="Succeeded",
        reason="Succeeded",
        events=("Succeeded",),
    ),
    "a forged result ends no search before the Job does": Case(
        qjob=quantization_job(("output.uri", "s3://artifacts/elsewhere"), status=RUNS),
        child=child(workers=2),
        pods=[found(name="a"), running(name="b")],
        now=LONG_AFTER,
        rule="running",
        phase="Running",
        reason="Running",
        said="1 of 2 workers run",
    ),
    "its queue took its place back": Case(
        qjob=RUNNING,
        child=child(workers=2, suspend=True),
        pods=[running(name="a", deletionTimestamp=DELETED), running(name="b", deletionTimestamp=DELETED)],
        rule="waiting",
        phase="Queued",
        reason="Preempted",
        events=("Preempted",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_all_pods_do(case: Case) -> None:
    verify(case)


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([found(name="a"), running(name="b")], "Running"),
        ([WRONG, running(name="b")], "Running"),
        ([terminated(0, SEARCHED.to_message(), name="a")], ""),
    ],
    ids=["success beside one that runs", "failure beside one that runs", "success"],
)
def test_what_holds_of_several_does_not_hold_of_one(pods: list[dict[str, Any]], reason: str) -> None:
    """A plain Job has one result; whatever else its pods show, the Job's own end decides."""
    decision = decide(Case(qjob=RUNNING, child=child(), pods=pods, now=LONG_AFTER))
    assert decision.rule != "published"
    assert not decision.delete
    assert decision.status is None or decision.status.phase == reason


def test_the_result_of_a_search_is_in_the_status() -> None:
    status = decide(replace(CASES["the Job is complete"])).status
    assert status is not None
    assert status.trials == SEARCHED.trials
    assert status.search == FOUND.model_copy(update={"shown": "24/24"})
    assert (status.artifact, status.metrics) == (SEARCHED.artifact, SEARCHED.metrics)


def test_a_search_that_misses_its_goals_shows_the_nearest_points() -> None:
    missed = Failure(category=Category.QUALITY_GOAL_MISSED, message="ppl 10.2 > 9")
    message = SEARCHED.model_copy(update={"artifact": None, "failure": missed}).to_message()
    case = Case(
        qjob=RUNNING,
        child=child(workers=2, status=ended("Failed", "PodFailurePolicy")),
        pods=[terminated(65, message, name="a"), terminated(143, name="b")],
        more=FRESH,
    )
    status = decide(case).status
    assert status is not None
    assert status.failure is not None
    assert status.failure.category is Category.QUALITY_GOAL_MISSED
    assert status.trials == SEARCHED.trials
    assert status.search is not None
    assert status.search.shown == "24/24"


def test_how_far_a_search_is_has_its_place_in_the_status_and_a_stage_is_no_news() -> None:
    def seen(done: int, stage: str, written: dict[str, Any]) -> Any:
        told = RunProgress(percent=10, stage=stage, search=Trials(done=done, total=24, best="bits=4: ppl 7"))
        more = {"progress": told, "progress_written": NOW - timedelta(seconds=60)}
        qjob = quantization_job(status=written)
        pods = [running(name="a"), running(name="b")]
        return decide(Case(qjob=qjob, child=child(workers=2), pods=pods, more=more)).status

    first = seen(3, "quantize", RUNS)
    assert first.search == Trials(done=3, total=24, best="bits=4: ppl 7", shown="3/24")
    assert first.progress == Progress(percent=10, shown="10 %", stage="quantize")
    written = first.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert seen(3, "evaluate", written) is None
    assert seen(4, "evaluate", written).search.shown == "4/24"
    assert QuantizationJob.of(quantization_job(status=written)).read_status() == first


def test_a_job_with_a_long_line_of_starts_writes_few_of_them() -> None:
    """One more worker runs: that is told when the others had their moment, not for each."""
    before = condition_status("Reconciling", "Running", startTime=STARTED)
    pods = [running(name="a"), running(name="b"), waiting("ContainerCreating", name="c")]
    young = datetime.fromisoformat(STARTED) + timedelta(seconds=1)
    qjob = quantization_job(status=before)
    decision = decide(Case(qjob=qjob, child=child(workers=3), pods=pods, now=young))
    assert decision.status is None
    later = decide(Case(qjob=qjob, child=child(workers=3), pods=pods, now=young + timedelta(seconds=2)))
    assert later.status is not None
    assert later.passing
