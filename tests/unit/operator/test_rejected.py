"""What the API server refuses: which answers are waited for, for how long, and which are an end."""

from datetime import UTC, datetime, timedelta

import pytest

from quantization_operator.decision import Rejection
from quantization_operator.policies import artifact, rejected
from quantization_operator.settings import OperatorSettings

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DENIED = 'admission webhook "a.example.com" denied the request: "b" is not allowed'
POLICY = "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'a' with binding 'b' denied request: no"
MUTATING = 'policy "a" denied request: expression failed'
UNANSWERED = 'Internal error occurred: failed calling webhook "a.example.com": context deadline exceeded'


@pytest.mark.parametrize(
    ("code", "message", "answers", "for_good"),
    [
        (400, "Job in version v1 cannot be handled: quantities must match", True, True),
        (422, "spec.template: Invalid value: denied", True, True),
        (403, "exceeded quota: count/jobs.batch", True, False),
        (400, DENIED, True, False),
        (403, DENIED, True, False),
        (409, DENIED, True, False),
        (429, DENIED, True, False),
        (500, DENIED, True, False),
        (422, POLICY, True, False),
        (403, POLICY, True, False),
        (422, MUTATING, True, False),
        (500, UNANSWERED, True, False),
        (503, UNANSWERED, True, False),
        (500, "etcdserver: request timed out", False, False),
        (429, "too many requests", False, False),
        (409, "object was modified", False, False),
        (0, "POST /apis/batch/v1: ReadTimeoutError", False, False),
    ],
    ids=[
        "not readable",
        "not valid",
        "quota",
        "denied by a webhook without a code",
        "denied by a webhook",
        "denied as a conflict",
        "denied for now",
        "denied as an error of its own",
        "denied by a policy without a reason",
        "denied by a policy",
        "denied by a mutating policy",
        "a webhook that does not answer",
        "a webhook that does not answer, behind a proxy",
        "the API server is in trouble",
        "the API server is busy",
        "a conflict",
        "no answer at all",
    ],
)
def test_what_the_cluster_refuses_may_change_and_what_the_api_refuses_does_not(
    code: int, message: str, answers: bool, for_good: bool
) -> None:
    assert rejected.answers(code, message) == answers
    assert rejected.for_good(Rejection(code, message)) == for_good


@pytest.mark.parametrize(
    ("deleted_ago", "tried_ago", "left"),
    [(0, 0, 600.0), (590, 590, 10.0), (600, 600, 0.0), (9000, 0, 60.0), (9000, 59, 1.0), (9000, 60, 0.0)],
    ids=["now", "a while", "for too long", "a process that comes late", "it tries", "for a minute"],
)
def test_what_is_refused_is_given_up(deleted_ago: int, tried_ago: int, left: float) -> None:
    deleted, tried = (NOW - timedelta(seconds=ago) for ago in (deleted_ago, tried_ago))
    assert artifact.left_to_try(deleted, tried, OperatorSettings(), NOW) == left


def test_a_late_process_does_not_try_for_longer_than_the_bound() -> None:
    settings = OperatorSettings(cleanup_deadline_seconds=2)
    assert artifact.left_to_try(NOW - timedelta(hours=1), NOW, settings, NOW) == 2.0


@pytest.mark.parametrize(
    ("rejection", "hopeless"),
    [
        (
            Rejection(403, "unable to create new content in namespace team because it is being terminated"),
            True,
        ),
        (Rejection(403, "exceeded quota: count/jobs.batch"), False),
        (Rejection(422, "spec.template: Invalid value"), True),
        (Rejection(409, "a Job of this name exists", taken=True), True),
        (Rejection(400, DENIED), False),
        (Rejection(500, UNANSWERED), False),
    ],
)
def test_a_clean_up_that_can_never_start_is_known(rejection: Rejection, hopeless: bool) -> None:
    assert artifact.hopeless(rejection) == hopeless


@pytest.mark.parametrize(("ago", "left"), [(0, 600.0), (590, 10.0), (600, 0.0), (9000, 0.0)])
def test_a_clean_up_is_bounded(ago: int, left: float) -> None:
    assert artifact.left(NOW - timedelta(seconds=ago), OperatorSettings(), NOW) == left
