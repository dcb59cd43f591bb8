"""Each policy by itself: what is asked, and what it answers.

More in `test_operator_policies_waiting`, `test_operator_refused`, `test_operator_queueing` and `test_operator_reuse`.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    NAME,
    UID,
    child,
    condition_status,
    disruption,
    quantization_job,
    terminated,
)

from quantization_api.failures import Category
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Attempts
from quantization_operator.decision import Peer
from quantization_operator.diagnose import pod_failure
from quantization_operator.policies import artifact, conflict, managed_by, retry, ttl
from quantization_operator.snapshots import (
    FAILED_BEFORE_ANNOTATION,
    FINALIZER,
    ChildJob,
    ChildPod,
    QuantizationJob,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
START = datetime.fromisoformat(CREATED)
SECOND = timedelta(seconds=1)
DELETE = ("artifactPolicy", "Delete")


@pytest.mark.parametrize(
    ("ttl_seconds", "ended_ago", "left"),
    [
        (None, 1000, None),
        (60, None, None),
        (60, 0, 60.0),
        (60, 59.5, 0.5),
        (60, 60, 0.0),
        (60, 1000, 0.0),
        (0, 0, 0.0),
        (60, -30, 90.0),
    ],
    ids=[
        "no time to live",
        "not ended",
        "just ended",
        "almost",
        "to the second",
        "long ago",
        "at once",
        "a clock that jumped back",
    ],
)
def test_a_finished_object_expires(
    ttl_seconds: int | None, ended_ago: float | None, left: float | None
) -> None:
    ended = None if ended_ago is None else NOW - timedelta(seconds=ended_ago)
    assert ttl.left(ttl_seconds, ended, NOW) == left


def peer(uid: str = "other", after: timedelta = SECOND, **more: Any) -> Peer:
    given = {"name": uid, "has_job": False, "finished": False, "deleting": False} | more
    return Peer(uid=uid, created=START + after, **given)


@pytest.mark.parametrize(
    ("peers", "holder"),
    [
        ([], None),
        ([peer(after=-SECOND)], "other"),
        ([peer(after=SECOND)], None),
        ([peer("0", after=0 * SECOND)], "0"),
        ([peer("z", after=0 * SECOND)], None),
        ([peer(after=SECOND, has_job=True)], "other"),
        ([peer(after=-SECOND, finished=True)], None),
        ([peer(after=-SECOND, deleting=True, has_job=True)], None),
        ([peer("b", after=-SECOND), peer("a", after=-2 * SECOND)], "a"),
        ([peer("b", after=-2 * SECOND), peer("a", after=SECOND, has_job=True)], "a"),
    ],
    ids=[
        "alone",
        "an older one goes first",
        "a younger one does not",
        "of the same second, the smaller uid",
        "of the same second, this one",
        "a younger one that has a Job goes on",
        "one that has ended is no conflict",
        "one that goes away is waited for instead",
        "the oldest of several is named",
        "of several, the one with a Job is named",
    ],
)
def test_one_job_has_an_output(peers: list[Peer], holder: str | None) -> None:
    found = conflict.holder(QuantizationJob.of(quantization_job()), peers)
    assert (found.uid if found else None) == holder


def test_of_two_jobs_exactly_one_gives_way() -> None:
    qjobs = [QuantizationJob.of(quantization_job(uid=uid)) for uid in ("a", "b")]
    gives_way = [
        conflict.holder(qjob, [peer(other.uid, after=0 * SECOND)]) is not None
        for qjob, other in (qjobs, qjobs[::-1])
    ]
    assert gives_way == [False, True]


@pytest.mark.parametrize(
    ("value", "another"),
    [(None, False), ("quantization.dev/operator", False), ("kueue.x-k8s.io/multikueue", True)],
)
def test_an_object_of_another_controller_is_known(value: str | None, another: bool) -> None:
    changes = [("managedBy", value)] if value else []
    assert managed_by.another(QuantizationJob.of(quantization_job(*changes))) == another


@pytest.mark.parametrize(
    ("qjob_body", "makes_artifact", "wanted"),
    [
        (quantization_job(), True, None),
        (quantization_job(DELETE), True, (FINALIZER,)),
        (quantization_job(DELETE), False, None),
        (quantization_job(DELETE, finalizers=["a/b"]), True, ("a/b", FINALIZER)),
        (quantization_job(DELETE, status=condition_status("Ready", "Succeeded")), False, (FINALIZER,)),
        (
            quantization_job(DELETE, status=condition_status("Ready", "Succeeded", jobName="")),
            False,
            (FINALIZER,),
        ),
        (quantization_job(DELETE, status=condition_status("Stalled", "Internal", jobName="")), False, None),
        (quantization_job(DELETE, finalizers=[FINALIZER]), False, None),
        (quantization_job(finalizers=["a/b", FINALIZER]), False, ("a/b",)),
        (quantization_job(finalizers=[FINALIZER]), True, ()),
        (quantization_job(finalizers=["a/b"]), True, None),
    ],
    ids=[
        "Retain: never",
        "Delete: before the Job",
        "Delete, and there was no Job: nothing to remove",
        "beside those of others",
        "Delete was asked for after the Job was made",
        "Delete was asked for after a result was taken over without a Job",
        "it failed before there was a Job: nothing to remove",
        "it has it, during a pause too",
        "Retain was asked for later: without",
        "Retain was asked for during a pause",
        "those of others are theirs",
    ],
)
def test_the_finalizer_is_there_when_something_may_have_to_be_removed(
    qjob_body: dict[str, Any], makes_artifact: bool, wanted: tuple[str, ...] | None
) -> None:
    assert artifact.finalizers(QuantizationJob.of(qjob_body), makes_artifact) == wanted


@pytest.mark.parametrize(
    ("peers", "kept"),
    [
        ([], False),
        ([peer(finished=True)], True),
        ([peer(has_job=True)], True),
        ([peer()], False),
        ([peer(finished=True, deleting=True)], False),
    ],
    ids=["alone", "another has the result", "another makes it", "another waits", "both go"],
)
def test_an_artifact_that_another_job_has_is_kept(peers: list[Peer], kept: bool) -> None:
    assert (artifact.kept_for(peers) is not None) == kept


def made(before: int = 0) -> ChildJob:
    annotations = {FAILED_BEFORE_ANNOTATION: str(before)} if before else {}
    return ChildJob.of(child(status={"failed": 2}, annotations=annotations))


@pytest.mark.parametrize(
    ("known", "job_made", "pods", "failed"),
    [
        (None, made(), 0, 0),
        (None, made(), 2, 2),
        (Attempts(failed=2), None, 0, 2),
        (Attempts(failed=2), made(before=2), 0, 2),
        (Attempts(failed=2), made(before=2), 1, 3),
        (Attempts(failed=3), made(before=1), 1, 3),
    ],
    ids=[
        "none",
        "of one Job",
        "in a pause",
        "a new Job",
        "its attempts come on top",
        "never less than was told",
    ],
)
def test_attempts_are_counted_over_pauses(
    known: Attempts | None, job_made: ChildJob | None, pods: int, failed: int
) -> None:
    ended = [ChildPod.of(terminated(75, name=str(number))) for number in range(pods)]
    found = retry.attempts(known, job_made, 0, ended)
    assert (found.failed if found else 0) == failed


TAKEN_AWAY: dict[str, tuple[dict[str, Any], bool, Category | None]] = {
    "evicted by the API": (terminated(143, conditions=[disruption()]), True, Category.DISRUPTED),
    "preempted before it wrote anything": (
        terminated(137, conditions=[disruption("PreemptionByScheduler")]),
        True,
        Category.DISRUPTED,
    ),
    "its node was lost": (
        terminated(137, conditions=[disruption("DeletionByTaintManager")]),
        True,
        Category.NODE_LOST,
    ),
    "deleted by hand": (terminated(143), True, Category.DISRUPTED),
    "out of memory": (terminated(137, reason="OOMKilled"), False, Category.HOST_OUT_OF_MEMORY),
    "evicted for its own scratch, told by SIGTERM": (
        terminated(
            143,
            status={
                "reason": "Evicted",
                "message": 'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi".',
            },
        ),
        True,
        Category.SCRATCH_FULL,
    ),
}


@pytest.mark.parametrize("name", TAKEN_AWAY)
def test_a_pod_that_was_taken_away_is_no_failed_attempt(name: str) -> None:
    body, taken_away, category = TAKEN_AWAY[name]
    pod = ChildPod.of(body)
    assert pod.taken_away == taken_away
    found = pod_failure(pod)
    assert found is not None
    assert found.category == category


def test_a_pod_that_ignores_its_own_limits_is_not_tried_for_ever() -> None:
    """The Job ignores exit code 143, so what comes back must be seen by the operator."""
    pod = ChildPod.of(TAKEN_AWAY["evicted for its own scratch, told by SIGTERM"][0])
    found = retry.hopeless([pod])
    assert found is not None
    assert found.category == Category.SCRATCH_FULL


def test_a_pod_deleted_before_it_ran_is_blameless() -> None:
    pod = ChildPod.of(
        {
            "metadata": {
                "uid": "p",
                "name": f"{NAME}-x",
                "namespace": "default",
                "creationTimestamp": CREATED,
                "deletionTimestamp": CREATED,
                "labels": {"quantization.dev/job-uid": UID},
            },
            "status": {"phase": "Failed"},
        }
    )
    assert retry.blameless([pod]) == 1


@pytest.mark.parametrize(("limit", "before", "left"), [(3, 0, 3), (3, 2, 1), (3, 3, 0), (1, 3, 0)])
def test_a_job_after_a_pause_has_the_attempts_that_are_left(limit: int, before: int, left: int) -> None:
    spec = QuantizationJobSpec.model_validate(quantization_job(("backoffLimit", limit))["spec"])
    assert retry.job_fields(spec, before)["backoffLimit"] == left
