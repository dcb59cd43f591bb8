"""The one place where a job's state changes: what was observed, and the time, give a decision. Pure.

No I/O, no clock, no memory: what must be remembered comes in with `Observed` and goes out with `Decision`.
The rules stand in a table; the first that applies decides. Level-triggered: each rule looks at what is, not
at what happened, so it does not matter which events were lost, repeated or reordered, or when the operator was
killed. A decision that would end a job because something is *absent* is only made from a fresh look
(`Observed.fresh`): a cache is always a little behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quantization_api.failures import PERMANENT_EXIT_CODES, Category
from quantization_api.pod import RunResult
from quantization_api.status import Failure, Progress, QuantizationJobStatus
from quantization_operator import workload
from quantization_operator.conditions import (
    QUEUED_REASONS,
    RUNNING_REASON,
    SUCCEEDED_REASON,
    State,
    conditions,
    phase,
    reason,
    rfc3339,
)
from quantization_operator.diagnose import (
    by_age,
    failure,
    job_failure,
    pod_failure,
    success_of,
    waiting_problem,
)
from quantization_operator.policies import admission, patience, reporting, retry
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, JobRequest, KubernetesWarning

NO_POD_GRACE_SECONDS = 5.0
"""So long a Job may be without a pod before its events are read."""
SLOW_START_SECONDS = 20.0
"""So long a pod may be starting before its events are read."""
LOOK_AT_EVENTS_SECONDS = (15.0, 300.0)
"""Least and longest time between two looks at the events of a job that does not get on."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server's answer to the creation of the Job. taken: the name belongs to a Job of somebody else."""

    code: int
    message: str
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a decision may depend on.

    fresh: child and pods were read from the API server just now. warnings: Warning events of the child or its
    pod, None when they were not read. progress_written, disruptions and problem: what this process remembers.
    """

    request: JobRequest
    child: ChildJob | None = None
    pods: tuple[ChildPod, ...] = ()
    fresh: bool = False
    warnings: tuple[KubernetesWarning, ...] | None = None
    refusal: Refusal | None = None
    progress: Progress | None = None
    progress_written: datetime | None = None
    disruptions: int = 0
    problem: tuple[str, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell the user of the object, once: an event of the QuantizationJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. Effects happen in the order of the fields; the events only after the status was written.

    look: read these from the API server and decide again. create: manifest of the child Job; decide again after it.
    status: the new status, None when it stays. delete: a Job that must not go on. problem: to be remembered.
    retry: the same must be tried again, with back-off.
    """

    rule: str
    look: Literal["", "objects", "events"] = ""
    create: Mapping[str, Any] | None = None
    status: QuantizationJobStatus | None = None
    delete: ChildJob | None = None
    events: tuple[Event, ...] = ()
    problem: tuple[str, datetime] | None = None
    requeue_after: float | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules see: the observation, the status as last written, the settings, the time."""

    observed: Observed
    before: QuantizationJobStatus
    settings: OperatorSettings
    now: datetime
    request: JobRequest = field(init=False)
    child: ChildJob | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", self.observed.request)
        object.__setattr__(self, "child", self.observed.child)


def reconcile(observed: Observed, settings: OperatorSettings, now: datetime) -> Decision:
    """Decide about one job."""
    case = Case(observed, observed.request.read_status(), settings, now)
    for rule in RULES:
        decision = rule(case)
        if decision is not None:
            return decision
    raise AssertionError("the last rule always applies")


# --- the rules, in their order ---------------------------------------------------------------------------------


def _deleting(case: Case) -> Decision | None:
    """The garbage collector removes the Job; nothing is written to an object that is going away."""
    return Decision("deleting") if case.request.deleting else None


def _finished(case: Case) -> Decision | None:
    """An end is final. What is left: to stop a Job that still tries, and to observe later changes of the spec.

    Only a spec that was refused before any Job was made is judged again when it changes.
    """
    request, child = case.request, case.child
    if not request.finished:
        return None
    changed = request.observed_generation != request.generation
    if changed and request.finished == "Failed" and not request.job_name:
        return None
    status = case.before.model_copy(update={"observed_generation": request.generation}) if changed else None
    if status is not None:
        status.conditions = [
            c.model_copy(update={"observed_generation": request.generation}) for c in status.conditions
        ]
    lingers = child is not None and not child.ended and not child.deleting
    return Decision("finished", status=status, delete=child if lingers else None)


def _job_deleted(case: Case) -> Decision | None:
    """The Job was made, and is gone without having ended."""
    if case.child is not None or not case.request.job_name:
        return None
    if not case.observed.fresh:
        return Decision("job deleted", look="objects")
    gone = f"Job {case.request.job_name} was deleted before it ended"
    return _failed("job deleted", case, failure(Category.JOB_DELETED, gone))


def _create(case: Case) -> Decision | None:
    """Make the Job, if the spec can be run and the API server takes it."""
    if case.child is not None:
        return None
    spec = admission.admit(case.request.spec)
    if isinstance(spec, Failure):
        return _failed("refused spec", case, spec)
    refusal = case.observed.refusal
    if refusal is None:
        return Decision("create", create=workload.build(case.request, spec, case.settings))
    if refusal.taken:
        return _failed("name taken", case, failure(Category.INTERNAL, refusal.message))
    if refusal.code in (400, 422):
        hint = "Correct spec.template: the API server does not accept the Job that follows from it."
        return _failed("refused job", case, failure(Category.INVALID_WORKFLOW, refusal.message, hint=hint))
    status = _next(case, State("in progress", "JobRefused", refusal.message))
    return Decision("refused job", status=status, events=_events(case, status), retry=True)


def _complete(case: Case) -> Decision | None:
    """The Job completed. It succeeded when a pod left a valid result, and only then."""
    child = case.child
    if child is None or child.ended != "Complete":
        return None
    found = success_of(case.observed.pods)
    if found is None and not case.observed.fresh:
        return Decision("complete", look="objects")
    if isinstance(found, RunResult):
        return _succeeded("complete", case, found)
    if found is None:
        found = failure(
            Category.INTERNAL, "the Job completed, but its pod was removed before its result was read"
        )
    return _failed("complete without a result", case, found)


def _job_failed(case: Case) -> Decision | None:
    """The Job gave up. The cause is read from all of its pods, as they are now."""
    child = case.child
    if child is None or child.ended != "Failed":
        return None
    if not case.observed.fresh:
        return Decision("job failed", look="objects")
    return _failed("job failed", case, job_failure(child, case.observed.pods))


def _hopeless(case: Case) -> Decision | None:
    """A pod failed in a way that the next one would too, and the Job cannot know it."""
    cause = retry.hopeless(case.observed.pods)
    return _failed("hopeless", case, cause, delete=True) if cause else None


def _ending(case: Case) -> Decision | None:
    """The last quantizer ended for good; the kubelet and the Job controller will say so in a moment."""
    pods = by_age(case.observed.pods)
    if not pods or any(pod.uid != pods[-1].uid for pod in _alive(case)):
        return None
    last = pods[-1]
    ended = last.exit_code in (0, *PERMANENT_EXIT_CODES) and not last.disruption
    return Decision("ending") if last.phase == "Succeeded" or ended else None


def _in_progress(case: Case) -> Decision:
    """The Job waits or runs: say how it stands, for what it waits, and end it when patience does."""
    child, observed = case.child, case.observed
    if child is None:
        raise AssertionError("a job without a child Job was decided above")
    problem = None if child.suspended else waiting_problem(observed.pods, observed.warnings or ())
    if problem is not None:
        since = observed.problem[1] if observed.problem and observed.problem[0] == problem.key else case.now
        left = patience.left(problem, since, case.now, case.settings)
        if left == 0:
            return _failed("out of patience", case, problem.failure, delete=True)
        status = _next(case, State("in progress", problem.reason, problem.failure.message))
        look = _until_next_look(case) if observed.warnings else None
        again = min(filter(None, (left, look)), default=None)
        return Decision(
            "waiting",
            status=status,
            events=_events(case, status),
            problem=(problem.key, since),
            requeue_after=again,
        )
    stuck_in = _seconds_until_slow(case)
    if stuck_in == 0 and observed.warnings is None:
        return Decision("waiting", look="events", problem=observed.problem)
    state = _state(case)
    status = _next(case, state)
    return Decision(
        "running" if state.reason == RUNNING_REASON else "waiting",
        status=status,
        events=_events(case, status),
        requeue_after=_until_next_look(case) if stuck_in == 0 else stuck_in,
    )


RULES: tuple[Callable[[Case], Decision | None], ...] = (
    _deleting,
    _finished,
    _job_deleted,
    _create,
    _complete,
    _job_failed,
    _hopeless,
    _ending,
    _in_progress,
)

# --- states of a job that has not ended ------------------------------------------------------------------------


def _alive(case: Case) -> list[ChildPod]:
    return [pod for pod in by_age(case.observed.pods) if pod.phase not in ("Failed", "Succeeded")]


def _state(case: Case) -> State:
    child = case.child
    if child is None:
        raise AssertionError("only a job with a child Job has such a state")
    if child.suspended:
        if reason(case.before.conditions) in (RUNNING_REASON, "Preempted"):
            return State(
                "in progress", "Preempted", "the queue took the resources back; the job waits for its turn"
            )
        return State("in progress", "Queued", "the Job is suspended: it waits for admission by its queue")
    alive = _alive(case)
    if alive:
        pod = alive[-1]
        if pod.running:
            return State("in progress", RUNNING_REASON, f"pod {pod.name} runs on node {pod.node}")
        if pod.node:
            return State("in progress", "Starting", f"pod {pod.name} is starting on node {pod.node}")
    ended = by_age(case.observed.pods)
    cause = pod_failure(ended[-1]) if ended else None
    if alive or cause is None:
        return State("in progress", "Starting", f"Job {child.name} waits for its pod to be scheduled")
    if cause.category in (Category.DISRUPTED, Category.NODE_LOST):
        return State("in progress", "Disrupted", f"waits for a new pod: {cause.message}")
    return State(
        "in progress", "Retrying", f"waits for the next attempt after {cause.category}: {cause.message}"
    )


def _until_next_look(case: Case) -> float:
    """Jobs that wait for days are many, and their events rarely news: the longer the wait, the rarer the look."""
    shortest, longest = LOOK_AT_EVENTS_SECONDS
    alive = _alive(case)
    since = alive[-1].created if alive else case.child.created if case.child else case.now
    return min(longest, max(shortest, (case.now - since).total_seconds() / 4))


def _seconds_until_slow(case: Case) -> float | None:
    """0 when the job does not get on and events may say why; else how long until then; None while it runs."""
    child, alive = case.child, _alive(case)
    if child is None or child.suspended or any(pod.running for pod in alive):
        return None
    if alive:
        since, limit = alive[-1].created, SLOW_START_SECONDS
    elif case.observed.pods:
        return None  # the Job controller makes the next pod after its back-off
    else:
        since, limit = child.created, NO_POD_GRACE_SECONDS
    return max(0.0, limit - (case.now - since).total_seconds())


# --- the status that follows -----------------------------------------------------------------------------------


def _next(case: Case, state: State, **changes: Any) -> QuantizationJobStatus | None:
    """The next status, or None when it says nothing new."""
    request, before, child = case.request, case.before, case.child
    observed = case.observed
    update: dict[str, Any] = {
        "observed_generation": request.generation,
        "conditions": conditions(state, request.generation, before.conditions, case.now),
        "attempts": retry.attempts(before.attempts, child, observed.disruptions, observed.pods),
        "completion_time": None,
        "failure": None,
    }
    if before.passes is None and request.spec:
        spec = admission.admit(request.spec)
        if not isinstance(spec, Failure):
            update["passes"] = "+".join(item.type for item in spec.workflow.passes)[:256]
    if child is not None:
        update |= {"job_name": child.name, "start_time": before.start_time or rfc3339(child.created)}
    if state.reason == RUNNING_REASON and reporting.due(
        before.progress,
        observed.progress,
        observed.progress_written,
        case.now,
        case.settings.progress_interval_seconds,
    ):
        update["progress"] = observed.progress
    after = before.model_copy(update=update | changes)
    after.phase = phase(after.conditions)
    return None if after == before else after


def _succeeded(rule: str, case: Case, result: RunResult) -> Decision:
    ended = case.child.completion_time if case.child else None
    layers = (case.observed.progress or case.before.progress or Progress()).layers
    status = _next(
        case,
        State(
            "succeeded",
            SUCCEEDED_REASON,
            f"the artifact is at {result.artifact.uri if result.artifact else ''}",
        ),
        completion_time=rfc3339(ended or case.now),
        recipe=result.recipe,
        artifact=result.artifact,
        metrics=result.metrics,
        progress=Progress(percent=100, stage="done", layer=layers, layers=layers),
    )
    return Decision(rule, status=status, events=_events(case, status))


def _failed(rule: str, case: Case, cause: Failure, delete: bool = False) -> Decision:
    ended = case.child.ended_at if case.child else None
    status = _next(
        case,
        State("failed", cause.category, cause.message),
        completion_time=rfc3339(ended or case.now),
        failure=cause,
    )
    return Decision(rule, status=status, delete=case.child if delete else None, events=_events(case, status))


CALM_REASONS = frozenset(
    {RUNNING_REASON, SUCCEEDED_REASON, "Starting", "Disrupted", "Retrying", *QUEUED_REASONS}
)


def _events(case: Case, after: QuantizationJobStatus | None) -> tuple[Event, ...]:
    """What changed, for `kubectl describe`: transitions only, each told once."""
    before = case.before
    if after is None:
        return ()
    told: list[Event] = []
    was, now = before.attempts, after.attempts
    pods = by_age(case.observed.pods)
    if now and now.failed > (was.failed if was else 0) and after.phase != "Failed":
        cause = next((f for pod in reversed(pods) if (f := pod_failure(pod))), None)
        told.append(
            Event("Warning", "AttemptFailed", cause.message if cause else f"{now.failed} attempts failed")
        )
    if now and now.disrupted > (was.disrupted if was else 0):
        told.append(Event("Normal", "Disrupted", "a pod was disrupted; this is not counted as an attempt"))
    if before.job_name is None and after.job_name is not None:
        told.append(Event("Normal", "JobCreated", f"created Job {after.job_name}"))
    elif (
        case.child is not None
        and before.observed_generation is not None
        and before.observed_generation < case.request.generation
    ):
        told.append(
            Event("Warning", "ChangeIgnored", "the Job is already made; the change has no effect on it")
        )
    ready = next(c for c in after.conditions if c.type == "Ready")
    if ready.reason != reason(before.conditions):
        if after.phase == "Succeeded":
            told.append(Event("Normal", SUCCEEDED_REASON, ready.message))
        elif after.phase == "Failed" and after.failure:
            told.append(
                Event("Warning", after.failure.category, f"{after.failure.message} {after.failure.hint}")
            )
        elif ready.reason == RUNNING_REASON:
            told.append(Event("Normal", "Started", ready.message))
        elif ready.reason in QUEUED_REASONS:
            told.append(Event("Normal", ready.reason, ready.message))
        elif ready.reason not in CALM_REASONS:
            told.append(Event("Warning", ready.reason, ready.message))
    return tuple(told)
