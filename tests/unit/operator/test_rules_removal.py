"""An object that is not ours or goes away, perhaps with its artifact (`rules/removal.py`)."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    CREATED,
    child,
    condition_status,
    ended,
    quantization_job,
    result_status,
    running,
    succeeded,
    terminated,
)
from tests.support.decisions import (
    DELETED,
    DENIED,
    FRESH,
    LATER,
    NO_ANSWER,
    NOW,
    OTHER,
    RUNS,
    SETTINGS,
    TRUSTED,
    Case,
    decide,
    observe,
    verify,
)

from quantization_operator.decision import Rejection
from quantization_operator.reconcile import reconcile
from quantization_operator.snapshots import FINALIZER, ChildJob, ChildPod, QuantizationJob

pytestmark = pytest.mark.unit

DELETE = ("artifactPolicy", "Delete")
INVALID = ("backoffLimit", -1)


def leaving(*changes: tuple[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """A job that was deleted, and whose artifact is to go with it."""
    return quantization_job(
        DELETE, *changes, status=status, deletionTimestamp=CREATED, finalizers=[FINALIZER]
    )


def cleanup(status: dict[str, Any] | None = None) -> ChildJob:
    """The Job that removes the artifact."""
    return ChildJob.of(child(status=status, name="cleanup", uid="cleanup", ownerReferences=[]))


HEIR = replace(OTHER, has_job=False, spec=QuantizationJob.of(quantization_job(TRUSTED)).spec)

REMOVING = {"cleanup": cleanup(), "cleanup_pods": (ChildPod.of(running()),)}

CASES: dict[str, Case] = {
    "the object is being deleted: nothing": Case(
        qjob=quantization_job(status=RUNS, deletionTimestamp=DELETED), child=child(), rule="deleting"
    ),
    # --- another controller
    "managed by another controller: nothing": Case(
        qjob=quantization_job(("managedBy", "kueue.x-k8s.io/multikueue")), rule="left alone"
    ),
    "managed by another controller, being deleted with our finalizer: nothing": Case(
        qjob=quantization_job(
            ("managedBy", "kueue.x-k8s.io/multikueue"),
            DELETE,
            finalizers=[FINALIZER],
            deletionTimestamp=DELETED,
        ),
        rule="left alone",
    ),
    "managed by us, by name": Case(
        qjob=quantization_job(("managedBy", "quantization.dev/operator")), rule="create", creates=True
    ),
    # --- the artifact goes with the object
    "the artifact is to go with it: the finalizer comes before the Job": Case(
        qjob=quantization_job(DELETE), rule="create", finalizers=(FINALIZER,)
    ),
    "the finalizer is there: make the Job": Case(
        qjob=quantization_job(DELETE, finalizers=[FINALIZER]), rule="create", creates=True
    ),
    "the policy was changed while it runs: the finalizer": Case(
        qjob=quantization_job(DELETE, status=RUNS), child=child(), rule="finalizer", finalizers=(FINALIZER,)
    ),
    "the policy was changed back: without it": Case(
        qjob=quantization_job(finalizers=[FINALIZER], status=condition_status("Ready")),
        rule="finalizer",
        finalizers=(),
    ),
    "deleted while it runs: the Job is stopped first": Case(
        qjob=leaving(status=RUNS),
        child=child(),
        pods=[running()],
        rule="stop",
        deletes=True,
        requeued=600.0,
    ),
    "deleted, and the Job cannot be stopped: try again": Case(
        qjob=leaving(status=RUNS),
        child=child(),
        more={"rejection": NO_ANSWER},
        rule="stop",
        retried=True,
        requeued=588.0,
    ),
    "deleted, and the Job cannot be stopped for too long: let it go, and say so": Case(
        qjob=leaving(status=RUNS),
        child=child(),
        more={"rejection": NO_ANSWER, "problem": ("stop", NOW)},
        now=LATER,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "deleted long ago, while the operator was down, and the Job cannot be stopped: tried for a minute": Case(
        qjob=leaving(status=RUNS),
        child=child(),
        more={"rejection": NO_ANSWER, "problem": ("ImagePullFailed/x", NOW)},
        now=LATER,
        rule="stop",
        retried=True,
        requeued=60.0,
    ),
    "deleted, and the Job stops": Case(
        qjob=leaving(status=RUNS), child=child(deletionTimestamp=CREATED), rule="stop", requeued=588.0
    ),
    "deleted, and the Job does not stop: let it go, and say so": Case(
        qjob=leaving(status=RUNS),
        child=child(deletionTimestamp=CREATED),
        now=LATER,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "deleted, and the Job is gone: look before the artifact is removed": Case(
        qjob=leaving(status=RUNS), rule="clean up", look="objects"
    ),
    "deleted, no Job: remove the artifact": Case(
        qjob=leaving(status=RUNS), more=FRESH, rule="clean up", creates=True
    ),
    "deleted long ago, while the operator was down: it is tried all the same": Case(
        qjob=leaving(status=RUNS), more=FRESH, now=LATER, rule="clean up", creates=True
    ),
    "deleted after it ended: remove the artifact": Case(
        qjob=leaving(status=condition_status("Ready", "Succeeded")),
        child=child(status=ended("Complete")),
        more=FRESH,
        rule="clean up",
        creates=True,
    ),
    "the clean-up runs": Case(qjob=leaving(status=RUNS), more=REMOVING, rule="clean up", requeued=588.0),
    "the clean-up does not end: let it go, and say so": Case(
        qjob=leaving(status=RUNS),
        more={"cleanup": cleanup()},
        now=LATER,
        rule="released",
        releases=True,
        deletes=True,
        events=("ArtifactLeft",),
    ),
    "the clean-up failed: look why": Case(
        qjob=leaving(status=RUNS),
        more={"cleanup": cleanup(ended("Failed", "BackoffLimitExceeded"))},
        rule="clean up",
        look="objects",
    ),
    "the clean-up failed: let it go, and say so": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"cleanup": cleanup(ended("Failed", "BackoffLimitExceeded"))},
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "the clean-up is done: let it go": Case(
        qjob=leaving(status=RUNS),
        more={"cleanup": cleanup(ended("Complete"))},
        rule="cleaned up",
        releases=True,
    ),
    "the clean-up is refused by a quota: try again": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"rejection": Rejection(403, "exceeded quota")},
        rule="clean up",
        retried=True,
        requeued=588.0,
    ),
    "a webhook that names no code denies the clean-up: try again": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"rejection": DENIED},
        rule="clean up",
        retried=True,
        requeued=588.0,
    ),
    "the API server gives no answer to the clean-up: try again": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"rejection": Rejection(0, "POST /apis/batch/v1/...: ReadTimeoutError")},
        rule="clean up",
        retried=True,
        requeued=588.0,
    ),
    "deleted long ago, while the operator was down, and the clean-up is refused: tried for a minute": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"rejection": Rejection(503, "apiserver is shutting down")},
        now=LATER,
        rule="clean up",
        retried=True,
        requeued=60.0,
    ),
    "the clean-up is refused for too long: let it go, and say so": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"rejection": Rejection(403, "exceeded quota"), "problem": ("clean up", NOW)},
        now=LATER,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "its namespace goes: let it go at once, and say so": Case(
        qjob=leaving(status=RUNS),
        more=FRESH | {"rejection": Rejection(403, "forbidden: the namespace team is being terminated")},
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "its stored spec is not understood: let it go, and say so": Case(
        qjob=leaving(INVALID, status=RUNS),
        more=FRESH,
        rule="released",
        releases=True,
        events=("ArtifactLeft",),
    ),
    "another job has the same artifact: it is kept": Case(
        qjob=leaving(status=condition_status("Ready", "Succeeded")),
        more={"peers": (replace(OTHER, finished=True),)},
        rule="released",
        releases=True,
        events=("ArtifactKept",),
    ),
    "another job trusts this one, and may have read it just now: the artifact is kept": Case(
        qjob=leaving(status=result_status()),
        more={"peers": (HEIR,)},
        rule="released",
        releases=True,
        events=("ArtifactKept",),
    ),
    "another job trusts this one, but its artifact is already being removed": Case(
        qjob=leaving(status=result_status()),
        more=REMOVING | {"peers": (HEIR,)},
        rule="clean up",
        requeued=588.0,
    ),
    "Delete was asked for after a result was taken over: the finalizer": Case(
        qjob=quantization_job(DELETE, status=result_status(jobName="")),
        rule="finalizer",
        finalizers=(FINALIZER,),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_what_is_observed(case: Case) -> None:
    verify(case)


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
        case = Case(qjob=leaving(status=RUNS), child=made, more=FRESH | {"problem": problem}, now=now)
        tried = decide(case)
        assert tried.delete is not None or tried.create is not None
        problem = (
            tried.problem if tried.delete else problem
        )  # before it creates, the controller remembers nothing
        rejection = replace(NO_ANSWER, retry_after=7)
        decision = decide(replace(case, more=FRESH | {"problem": problem, "rejection": rejection}))
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
        CASES["deleted after it ended: remove the artifact"], qjob=leaving(status=RUNS), pods=[succeeded()]
    )
    made = decide(case).create
    assert made is not None
    assert "--recipe=sha256:" + "a" * 64 in made["spec"]["template"]["spec"]["containers"][0]["args"]
