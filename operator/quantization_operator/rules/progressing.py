"""While the Job waits or runs: how it stands, for what it waits, and the end of patience."""

from dataclasses import replace
from datetime import datetime

from quantization_api.failures import Category
from quantization_api.status import QuantizationJobStatus
from quantization_operator.conditions import RUNNING_REASON, STARTING_REASON, State, reason
from quantization_operator.decision import Case, Decision
from quantization_operator.diagnose import pod_failure
from quantization_operator.hindrances import Problem, unnoticed, waiting_problem
from quantization_operator.outcome import failed, next_status, told
from quantization_operator.policies import patience, queueing
from quantization_operator.rules import searching
from quantization_operator.snapshots import ChildJob
from quantization_operator.workers import by_age, idle, living, missing, running

NO_POD_GRACE_SECONDS = 5.0
"""How long a Job may be without a pod before its events are read."""
SLOW_START_SECONDS = 20.0
"""How long a pod may be starting before its events are read."""
NEXT_POD_SECONDS = 20.0
"""How long after the end of a pod the next one may take to be created before the Job's events are read. The back-off of
the Job controller may be longer: then the events say nothing, and are looked at more and more rarely."""
LOOK_AT_EVENTS_SECONDS = (15.0, 300.0)
"""Least and longest time between two looks at the events of a job that does not get on."""
PASSING_SECONDS = 1.5
"""A pod of this age mostly runs, or soon will: that it is starting, and where, is no write of its own before. The API
server's times are whole seconds, so it is up to a second less."""


def in_progress(case: Case) -> Decision:
    """The Job waits or runs: say how it stands, for what it waits, and end it when patience does."""
    if case.child is None:
        raise AssertionError("a job without a child Job was decided above")
    return replace(_in_progress(case, case.child), adopted=case.child.uid)


def _in_progress(case: Case, child: ChildJob) -> Decision:
    observed = case.observed
    asks_again = queueing.left(child, observed.queue, case.now)
    if asks_again == 0:
        return Decision("waiting", look="queue", problem=observed.problem)
    if searching.published(case) is not None:
        return _ending(case)
    problem = None if child.suspended else _problem(case)
    if problem is not None and not running(observed.pods):
        return _hindered(case, child, problem)
    stuck_in = _seconds_until_slow(case)
    if stuck_in == 0 and problem is None and observed.warnings is None:
        return Decision("waiting", look="events", problem=observed.problem)
    state = _state(case, problem)
    status = next_status(case, state)
    passing = status is not None and bool(stuck_in) and _passes(case, state, status)
    passes_in = _seconds_of_passing(case) if passing else 0.0
    if passes_in:
        return Decision("waiting", requeue_after=passes_in)
    return Decision(
        "running" if state.reason == RUNNING_REASON else "waiting",
        status=status,
        passing=passing,
        events=told(case, status),
        requeue_after=_until_next_look(case) if stuck_in == 0 else asks_again or stuck_in,
    )


def _problem(case: Case) -> Problem | None:
    pods, warnings = case.observed.pods, case.observed.warnings
    found = waiting_problem(pods, warnings or ())
    return found or (unnoticed(pods) if warnings is not None else None)


def _ending(case: Case) -> Decision:
    """One of several workers has published the result of all."""
    status = next_status(case, searching.ending())
    again = searching.left_to_end(case)
    return Decision("running", status=status, events=told(case, status), requeue_after=again)


def _hindered(case: Case, child: ChildJob, problem: Problem) -> Decision:
    """Nothing runs, and why is known. What hinders one worker does not end the work of others."""
    observed = case.observed
    since = observed.problem[1] if observed.problem and observed.problem[0] == problem.key else case.now
    left = patience.left(problem, since, case.now, case.settings)
    if left == 0:
        return failed("out of patience", case, problem.failure, stop=child)
    status = next_status(case, State("in progress", problem.reason, problem.told))
    look = _until_next_look(case) if observed.warnings else None
    again = min(filter(None, (left, look)), default=None)
    return Decision(
        "waiting",
        status=status,
        events=told(case, status),
        problem=(problem.key, since),
        requeue_after=again,
    )


def _state(case: Case, problem: Problem | None) -> State:
    child = case.child
    if child is None:
        raise AssertionError("only a job with a child Job has such a state")
    if child.suspended:
        return queueing.state(child, case.observed.queue, reason(case.before.conditions))
    if (several := searching.state(case, problem)) is not None:
        return several
    alive = living(case.observed.pods)
    if alive:
        pod = alive[-1]
        if pod.running:
            unheard = f"; {case.observed.unheard}" if case.observed.unheard else ""
            return State(
                "in progress", RUNNING_REASON, f"pod {pod.name} is running on node {pod.node}{unheard}"
            )
        if pod.node:
            return State("in progress", STARTING_REASON, f"pod {pod.name} is starting on node {pod.node}")
    ended = by_age(case.observed.pods)
    cause = pod_failure(ended[-1]) if ended else None
    if alive or cause is None:
        return State(
            "in progress", STARTING_REASON, f"Job {child.name} is waiting for its pod to be scheduled"
        )
    if cause.category in (Category.DISRUPTED, Category.NODE_LOST):
        return State("in progress", "Disrupted", f"waiting for a new pod: {cause.message}")
    return State(
        "in progress", "Retrying", f"waiting for the next attempt after {cause.category}: {cause.message}"
    )


def _passes(case: Case, state: State, status: QuantizationJobStatus) -> bool:
    """Whether a status would only say that a pod is starting, or one more of several.

    Every write costs the API server more than the Job's creation did, and wakes all who watch; Kubernetes' own Job
    controller waits for a second with the same intent.
    """
    before = case.before
    if state.reason not in (STARTING_REASON, RUNNING_REASON):
        return False
    if not before.conditions:
        return state.reason == STARTING_REASON and status.attempts is None
    only_words = status.model_copy(update={"conditions": before.conditions}) == before
    return only_words and reason(before.conditions) == state.reason


def _seconds_of_passing(case: Case) -> float:
    """How long to wait before such a status is written; where the clocks differ, not at all."""
    alive = living(case.observed.pods)
    youngest = alive[-1] if alive else case.child
    age = (case.now - youngest.created).total_seconds() if youngest else 0.0
    return PASSING_SECONDS - age if 0 <= age < PASSING_SECONDS else 0.0


def _until_next_look(case: Case) -> float:
    """Jobs that wait for days are many, and their events rarely news: the longer the wait, the rarer the look."""
    shortest, longest = LOOK_AT_EVENTS_SECONDS
    since, _ = _standstill(case) or (case.now, 0.0)
    return min(longest, max(shortest, (case.now - since).total_seconds() / 4))


def _seconds_until_slow(case: Case) -> float | None:
    """0 when a pod does not get on and events may say why; else how long until then; None while all run."""
    found = None if case.child is None or case.child.suspended else _standstill(case)
    if found is None:
        return None
    since, limit = found
    return min(limit, max(0.0, limit - (case.now - since).total_seconds()))


def _standstill(case: Case) -> tuple[datetime, float] | None:
    """Since when a pod does not get on, and for how many seconds that is nothing unusual; None while all run."""
    pods, child = case.observed.pods, case.child
    if waiting := idle(pods):
        return waiting[-1].created, SLOW_START_SECONDS
    if child is None or (living(pods) and not missing(child, pods)):
        return None
    if ended := [pod for pod in by_age(pods) if pod not in living(pods)]:
        return ended[-1].ended_at or ended[-1].created, NEXT_POD_SECONDS
    return child.created, NO_POD_GRACE_SECONDS
