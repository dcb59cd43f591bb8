"""What follows from a decision for the user: the next status, and the events that tell of it. Pure."""

from datetime import datetime
from typing import TypedDict, Unpack

from quantization_api.pod import RunProgress, RunResult
from quantization_api.status import (
    Artifact,
    Attempts,
    Failure,
    MetricResult,
    Progress,
    QuantizationJobStatus,
    Trial,
    Trials,
)
from quantization_api.text import full_stop
from quantization_operator.conditions import (
    AGAIN_REASON,
    QUEUED_REASONS,
    RUNNING_REASON,
    STARTING_REASON,
    SUCCEEDED_REASON,
    SUSPENDED_REASON,
    State,
    conditions,
    phase,
    reason,
    rfc3339,
)
from quantization_operator.decision import Case, Decision, Event
from quantization_operator.diagnose import result_of
from quantization_operator.policies import admission, again, pause, reporting, retry, ttl
from quantization_operator.snapshots import ChildJob


class StatusChanges(TypedDict, total=False):
    """Fields of a status that a rule sets itself; the others follow from what is observed."""

    attempts: Attempts | None
    restarts: int | None
    made_from: str | None
    progress: Progress | None
    start_time: str | None
    recipe: str | None
    job_name: str | None
    job_uid: str | None
    artifact: Artifact | None
    metrics: list[MetricResult]
    trials: list[Trial]
    search: Trials | None


def next_status(
    case: Case,
    state: State,
    *,
    completion_time: str | None = None,
    failure: Failure | None = None,
    **changes: Unpack[StatusChanges],
) -> QuantizationJobStatus | None:
    """The next status, or None when it says nothing new."""
    qjob, before, child = case.qjob, case.before, case.child
    observed = case.observed
    pods = pause.telling(qjob, child, observed.pods)
    after = before.model_copy()
    after.observed_generation = qjob.generation
    after.conditions = conditions(state, qjob.generation, before.conditions, case.now)
    after.phase = phase(after.conditions)
    after.attempts = retry.attempts(before.attempts, child, observed.disruptions, pods)
    after.completion_time, after.failure = completion_time, failure
    if before.passes is None and qjob.spec:
        spec = admission.admit(qjob.spec, qjob.problem)
        if not isinstance(spec, Failure):
            after.passes = "+".join(item.type for item in spec.workflow.passes)[:256]
    if child is not None:
        after.job_name, after.job_uid = child.name, child.uid
        after.start_time = before.start_time or rfc3339(child.created)
        after.made_from = child.made_from or before.made_from
        after.defaults = child.defaults or None
    seen, interval = observed.progress, case.settings.progress_interval_seconds
    if (
        seen is not None
        and state.reason == RUNNING_REASON
        and reporting.due(_written(before), seen, observed.progress_written, case.now, interval)
    ):
        after.progress, after.search = _alone(seen), counted(seen.search) or before.search
    after = after.model_copy(update=changes)
    return None if after == before else after


def counted(search: Trials | None) -> Trials | None:
    """How far a search is, with the words that `kubectl get` shows."""
    return search and search.model_copy(update={"shown": f"{search.done}/{search.total}"})


def _alone(told: RunProgress) -> Progress:
    """Without how far a search is, which has a place of its own in the status."""
    return Progress(**told.model_dump(exclude={"search", "shown"}), shown=f"{told.percent} %")


def _written(status: QuantizationJobStatus) -> RunProgress | None:
    """The progress of a status as a pod tells it."""
    if status.progress is None:
        return None
    search = status.search and status.search.model_copy(update={"shown": None})
    return RunProgress(**status.progress.model_dump(exclude={"shown"}), search=search)


def succeeded(rule: str, case: Case, result: RunResult, word: str = "") -> Decision:
    """The job ends with an artifact. word: what else there is to say."""
    ended = (case.child.completion_time if case.child else None) or case.now
    place = f"the artifact is at {result.artifact.uri if result.artifact else ''}"
    search = counted(result.search)
    chosen = f"the best of {search.done} points is {search.best}; " if search and search.best else ""
    return _with_artifact(
        rule,
        case,
        ended,
        chosen + place + (f"; {word}" if word else ""),
        recipe=result.recipe,
        artifact=result.artifact,
        metrics=result.metrics,
        trials=result.trials,
        search=search,
        progress=_done(case.observed.progress or case.before.progress),
    )


def taken_over(rule: str, case: Case, owner: str, found: QuantizationJobStatus) -> Decision:
    """The job ends with the artifact of another job, the owner, whose status says what it is."""
    output = case.qjob.output
    return _with_artifact(
        rule,
        case,
        case.now,
        f"took over the result of QuantizationJob {owner} without reading it: the artifact is at {output}",
        recipe=found.recipe,
        artifact=found.artifact and found.artifact.model_copy(update={"uri": output, "reused_from": output}),
        metrics=found.metrics,
        trials=found.trials,
        search=found.search,
        progress=_done(found.progress),
        job_name=None,
        job_uid=None,
        made_from=case.qjob.parts,
        start_time=None,  # of a Job from before a pause: what it did is not what was taken over
    )


def _done(progress: Progress | None) -> Progress:
    layers, notice = (progress.layers, progress.notice) if progress else (0, None)
    return Progress(percent=100, shown="100 %", stage="done", layer=layers, layers=layers, notice=notice)


def _with_artifact(
    rule: str, case: Case, ended: datetime, message: str, **changes: Unpack[StatusChanges]
) -> Decision:
    state = State("succeeded", SUCCEEDED_REASON, message)
    status = next_status(case, state, completion_time=rfc3339(ended), **changes)
    return Decision(rule, status=status, events=told(case, status), requeue_after=_expires(case, ended))


def failed(
    rule: str, case: Case, cause: Failure, stop: ChildJob | None = None, **changes: Unpack[StatusChanges]
) -> Decision:
    """The job ends without one. stop: a Job that would go on."""
    cause = cause.model_copy(update={"message": full_stop(cause.message), "hint": full_stop(cause.hint)})
    ended = (case.child.ended_at if case.child else None) or case.now
    status = next_status(
        case,
        State("failed", cause.category, cause.message),
        completion_time=rfc3339(ended),
        failure=cause,
        **_tried(case) | _judged(case) | changes,
    )
    return Decision(
        rule,
        status=status,
        delete=stop,
        events=told(case, status),
        requeue_after=_expires(case, ended),
    )


def _tried(case: Case) -> StatusChanges:
    """The points of a search that ended without an artifact, as one of its pods tells of them."""
    results = [result_of(pod) for pod in case.observed.pods if pod.exit_code]
    told_of = next((result for result in results if result and result.trials), None)
    if told_of is None:
        return {}
    return {"trials": told_of.trials, "search": counted(told_of.search) or case.before.search}


def _judged(case: Case) -> StatusChanges:
    """By what a job failed that has no Job: what asked for it then asks for nothing more."""
    made = case.child is not None or bool(case.qjob.job_name) or not case.qjob.parts
    return {} if made else {"made_from": case.qjob.parts}


def _expires(case: Case, ended: datetime) -> float | None:
    """Nothing else will bring a job that has ended back to be looked at."""
    return ttl.left(case.qjob.ttl_seconds, ended, case.now)


NOTICED_REASON = "ServersRefuse"
CALM_REASONS = frozenset(
    {RUNNING_REASON, STARTING_REASON, SUCCEEDED_REASON, "Stopping", "Disrupted", "Retrying"}
)


def told(case: Case, after: QuantizationJobStatus | None) -> tuple[Event, ...]:
    """What changed, for `kubectl describe`: transitions only, each told once.

    A Job that runs when it is told of is one event, not two: each costs the API server as much as creating the Job.
    """
    before = case.before
    if after is None:
        return ()
    news: list[Event] = []
    was, now = before.attempts, after.attempts
    if now and now.failed > (was.failed if was else 0) and after.phase != "Failed":
        causes = retry.faults(case.observed.pods)
        news.append(
            Event(
                "Warning", "AttemptFailed", causes[-1].message if causes else f"{now.failed} attempts failed"
            )
        )
    if now and now.disrupted > (was.disrupted if was else 0):
        news.append(
            Event("Normal", "Disrupted", "a pod was disrupted; this does not count as a failed attempt")
        )
    ready = next(c for c in after.conditions if c.type == "Ready")
    starts = ready.reason == RUNNING_REASON != reason(before.conditions)
    created = f"created Job {after.job_name}" if before.job_name is None and after.job_name else ""
    if created:
        news += () if starts else (Event("Normal", "JobCreated", created),)
    elif (
        case.child is not None
        and not (case.child.deleting or pause.left_over(case.qjob, case.child))
        and after.phase != "Suspended"
        and not case.qjob.finished
        and before.observed_generation is not None
        and before.observed_generation < case.qjob.generation
    ):
        news += _ignored(again.waits(case.qjob))
    news += _noticed(before.progress, after.progress)
    news += _unheard(case.observed.unheard, before)
    if ready.reason != reason(before.conditions):
        if after.phase == "Succeeded":
            news.append(Event("Normal", SUCCEEDED_REASON, ready.message))
        elif after.phase == "Failed" and after.failure:
            news.append(
                Event("Warning", after.failure.category, f"{after.failure.message} {after.failure.hint}")
            )
        elif starts:
            news.append(Event("Normal", "Started", "; ".join(filter(None, (created, ready.message)))))
        elif ready.reason in (*QUEUED_REASONS, SUSPENDED_REASON, AGAIN_REASON, "OutputInUse"):
            news.append(Event("Normal", ready.reason, ready.message))
        elif ready.reason not in CALM_REASONS:
            news.append(Event("Warning", ready.reason, ready.message))
    return tuple(news)


def unheeded(case: Case) -> tuple[Event, ...]:
    """What was changed of a job that has ended, and changes nothing."""
    return _ignored(again.ignored(case.qjob))


def _ignored(sentence: str) -> tuple[Event, ...]:
    return (Event("Warning", "ChangeIgnored", sentence),) if sentence else ()


def _unheard(why: str, before: QuantizationJobStatus) -> list[Event]:
    """That the progress cannot be read, once: the message of the state has it from then on."""
    if not why or any(why in condition.message for condition in before.conditions):
        return []
    return [Event("Warning", "ProgressUnknown", why)]


def _noticed(before: Progress | None, after: Progress | None) -> list[Event]:
    """What the pod found out about the job before it computes for hours."""
    notice = after.notice if after else None
    if notice is None or (before and before.notice == notice):
        return []
    return [Event("Warning", NOTICED_REASON, notice)]
