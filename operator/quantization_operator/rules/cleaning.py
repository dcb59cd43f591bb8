"""The Job that removes an artifact, while it waits or runs: it is watched like any other, and its user told at once.

The object that is going away gets no new status, so what hinders the removal is an event, once for each cause.
"""

import re
from datetime import datetime

from quantization_operator.decision import Case, Decision, Event
from quantization_operator.hindrances import Problem, waiting_problem
from quantization_operator.policies import patience
from quantization_operator.rules.progressing import (
    LOOK_AT_EVENTS_SECONDS,
    NO_POD_GRACE_SECONDS,
    SLOW_START_SECONDS,
)
from quantization_operator.snapshots import ChildJob
from quantization_operator.workers import idle, running

WAITS = "CleanUpWaits"
BARE = "without resources"
"""Begins what is remembered of a clean-up whose resources a LimitRange refused: the next Job asks for none."""
_LIMIT_RANGE = re.compile(
    r"(maximum|minimum) \S+ usage|limit to request ratio|must be less than or equal to \S+ limit"
)


def bare(case: Case) -> bool:
    """Whether the clean-up is to ask for no resources: the namespace gives a pod its own."""
    return case.observed.problem is not None and case.observed.problem[0].startswith(BARE)


def watched(case: Case, job: ChildJob, left: float) -> Decision | Problem:
    """What to do about a clean-up that has not ended; a Problem: it is not to be waited for any more.

    left: seconds until it is given up in any case.
    """
    observed = case.observed
    if job.deleting or observed.rejection is not None:
        return Decision("clean up", problem=observed.problem, requeue_after=left, retry=not job.deleting)
    if job.suspended:
        where = (
            f"the clean-up waits in LocalQueue {job.queue}" if job.queue else "its clean-up Job is suspended"
        )
        return _told(case, "suspended", where, left)
    problem = waiting_problem(observed.cleanup_pods, observed.warnings or ())
    if problem is None:
        return _not_hindered(case, job, left)
    if _LIMIT_RANGE.search(problem.failure.message) and not bare(case):
        return Decision("clean up", delete=job, problem=(BARE, case.now), requeue_after=left)
    since = _since(case, problem.key)
    patient = patience.left(problem, since, case.now, case.settings)
    if patient == 0:
        return problem
    again = min(filter(None, (left, patient, LOOK_AT_EVENTS_SECONDS[0])))
    return _told(case, problem.key, problem.told, again)


def _not_hindered(case: Case, job: ChildJob, left: float) -> Decision:
    """It runs, or it is starting; after a while the events may say why it does not."""
    observed = case.observed
    if running(observed.cleanup_pods):
        return Decision("clean up", problem=observed.problem, requeue_after=left)
    waiting = idle(observed.cleanup_pods)
    since, limit = (
        (waiting[-1].created, SLOW_START_SECONDS) if waiting else (job.created, NO_POD_GRACE_SECONDS)
    )
    slow_in = limit - (case.now - since).total_seconds()
    if slow_in <= 0 and observed.warnings is None:
        return Decision("clean up", look="events", problem=observed.problem)
    again = slow_in if slow_in > 0 else LOOK_AT_EVENTS_SECONDS[0]
    return Decision("clean up", problem=observed.problem, requeue_after=min(left, again))


def _since(case: Case, key: str) -> datetime:
    known = case.observed.problem
    return known[1] if known and known[0].removeprefix(BARE) == key else case.now


def _told(case: Case, key: str, why: str, again: float) -> Decision:
    """What hinders it, as an event when it is news."""
    known = case.observed.problem
    mine = f"{BARE}{key}" if bare(case) else key
    news = known is None or known[0] != mine
    message = f"the artifact at {case.qjob.output} is not removed yet: {why}"
    return Decision(
        "clean up",
        events=(Event("Warning", WAITS, message),) if news else (),
        problem=(mine, _since(case, key)),
        requeue_after=again,
    )
