"""A search: several workers share one piece of work. How they stand together, and when the first result is the end."""

from datetime import timedelta

from quantization_api.pod import RunResult
from quantization_operator.conditions import RUNNING_REASON, State
from quantization_operator.decision import Case
from quantization_operator.diagnose import forged, success_of
from quantization_operator.hindrances import Problem
from quantization_operator.workers import ended_well, idle, running

STRAGGLER_SECONDS = 300.0
"""How long the other workers have to end by themselves, once one of them has published the result of all: one that
starts only now sees within that time that nothing is left to do."""


def published(case: Case) -> RunResult | None:
    """The result that one of several workers has left; None while there is none, or where there is one worker."""
    if case.child is None or case.child.workers == 1:
        return None
    found = success_of(case.observed.pods)
    if not isinstance(found, RunResult) or forged(found, case.qjob.output, case.before.recipe):
        return None
    return found


def left_to_end(case: Case) -> float:
    """Seconds that workers may still take to end after the first that ended well; 0: no more."""
    ends = [pod.ended_at or pod.created for pod in ended_well(case.observed.pods)]
    until = min(ends, default=case.now) + timedelta(seconds=STRAGGLER_SECONDS)
    return max(0.0, (until - case.now).total_seconds())


def ending() -> State:
    """How they stand when the result is published."""
    return State(
        "in progress", RUNNING_REASON, "the result is published; waiting for the other workers to end"
    )


def state(case: Case, problem: Problem | None) -> State | None:
    """How several workers stand, if any of them works. problem: what keeps another one from it."""
    child, pods = case.child, case.observed.pods
    if child is None or child.workers == 1:
        return None
    works = len(running(pods))
    if works == 0:
        return None
    if works >= child.workers:
        return State("in progress", RUNNING_REASON, f"{_workers(works)} run")
    return State(
        "in progress", RUNNING_REASON, f"{works} of {_workers(child.workers)} run; {_why(case, problem)}"
    )


def _why(case: Case, problem: Problem | None) -> str:
    """Why fewer workers run than should."""
    if problem is not None:
        return f"the others wait: {problem.told}"
    waiting = idle(case.observed.pods)
    if not waiting:
        return "the others are to be made again"
    pod = waiting[-1]
    return (
        f"pod {pod.name} is starting on node {pod.node}" if pod.node else f"pod {pod.name} waits for a node"
    )


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"
