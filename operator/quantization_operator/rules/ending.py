"""How a job ends: its Job completes, gives up or disappears, or a pod shows that going on has no use."""

from dataclasses import replace

from quantization_api.failures import CATALOGUE, PERMANENT_EXIT_CODES, Category
from quantization_api.pod import RunResult
from quantization_api.status import Failure, QuantizationJobStatus
from quantization_api.text import clean
from quantization_operator import workload
from quantization_operator.conditions import AGAIN_REASON, State
from quantization_operator.decision import Case, Decision
from quantization_operator.diagnose import failure, forged, job_failure, pod_failure, success_of
from quantization_operator.outcome import failed, next_status, succeeded, told, unheeded
from quantization_operator.policies import added, again, retry, ttl
from quantization_operator.rules import searching
from quantization_operator.snapshots import ChildPod
from quantization_operator.workers import living, missing


def finished(case: Case) -> Decision | None:
    """Success is final, and so is a failure until it is corrected. What is left: to stop a Job that still tries, to
    observe later changes, to expire.

    A spec that was refused before any Job was made is judged again when it changes.
    """
    qjob, child = case.qjob, case.child
    if not qjob.finished:
        return None
    if again.wanted(qjob):
        return _start_again(case)
    changed = qjob.observed_generation != qjob.generation
    if changed and qjob.finished == "Failed" and not qjob.job_name:
        return None
    left = ttl.left(qjob.ttl_seconds, qjob.completed, case.now)
    if left == 0:
        return Decision("expired", remove=True)
    lingers = child is not None and not child.ended and not child.deleting
    status = _observing(case) if changed or qjob.changed else None
    return Decision(
        "finished",
        status=status,
        delete=child if lingers else None,
        events=unheeded(case) if status else (),
        requeue_after=left,
    )


def _start_again(case: Case) -> Decision:
    """It failed, and was corrected since: its status begins anew, and its Job goes (`beginning.superseded`)."""
    state = State("in progress", AGAIN_REASON, f"{again.why(case.qjob)}: the job starts again")
    status = next_status(
        case,
        state,
        restarts=case.qjob.restarts + 1,
        made_from=case.qjob.parts,
        attempts=None,
        start_time=None,
        job_name=None,
        job_uid=None,
        progress=None,
        metrics=[],
        trials=[],
        search=None,
    )
    events = told(case, status)
    return Decision("start again", status=status, adopted="", events=events, requeue_after=0.0)


def _observing(case: Case) -> QuantizationJobStatus | None:
    """The status of an end, of the spec as it is now."""
    generation = case.qjob.generation
    status = case.before.model_copy()
    status.observed_generation, status.made_from = generation, case.qjob.parts
    status.conditions = [c.model_copy(update={"observed_generation": generation}) for c in status.conditions]
    return None if status == case.before else status


def unproven(case: Case) -> Decision | None:
    """No uid of its Job is recorded: the operator was killed before it was, or an earlier release made the Job.

    Then the Job that has the name is the own one when it fits as the API server has it now, and not as a cache has it.
    """
    return None if case.observed.proven else Decision("whose job", look="objects")


def complete(case: Case) -> Decision | None:
    """The Job completed. It succeeded when a pod left a valid result, and only then."""
    child = case.child
    if child is None or child.ended != "Complete":
        return None
    found = success_of(case.observed.pods)
    if found is None and not case.observed.fresh:
        return Decision("complete", look="objects")
    if isinstance(found, RunResult):
        refused = forged(found, case.qjob.output, case.before.recipe)
        return failed("forged result", case, refused) if refused else succeeded("complete", case, found)
    if found is None:
        found = failure(
            Category.INTERNAL, "the Job completed, but its pod was removed before its result was read"
        )
    return failed("complete without a result", case, found)


def job_failed(case: Case) -> Decision | None:
    """The Job gave up. The cause is read from all of its pods, as they are now.

    What became of its other workers takes nothing from a result that one of them has published.
    """
    child = case.child
    if child is None or child.ended != "Failed":
        return None
    if not case.observed.fresh:
        return Decision("job failed", look="objects")
    if (found := _result(case)) is not None:
        return succeeded("published", case, found, _words(case))
    return failed("job failed", case, job_failure(child, case.observed.pods))


def _result(case: Case) -> RunResult | None:
    """The result that one of the pods has left, whatever became of the Job."""
    found = success_of(case.observed.pods)
    ours = isinstance(found, RunResult) and forged(found, case.qjob.output, case.before.recipe) is None
    return found if ours and isinstance(found, RunResult) else None


def _words(case: Case) -> str:
    return next(filter(None, map(added.word, case.observed.pods)), "")


def spoiled(case: Case) -> Decision | None:
    """The quantizer succeeded and its pod failed, by another container: the Job is not to try again."""
    child = case.child
    if child is None or child.workers > 1 or not any(map(added.spoiled, case.observed.pods)):
        return None
    found = _result(case)
    return None if found is None else replace(succeeded("spoiled", case, found, _words(case)), delete=child)


def outlived(case: Case) -> Decision | None:
    """The quantizer ended, and another container of its pod does not: the Job would never end."""
    child, pods = case.child, [pod for pod in case.observed.pods if added.outlives(pod)]
    if child is None or not pods or (child.workers > 1 and pods[0].exit_code not in PERMANENT_EXIT_CODES):
        return None
    if (left := added.left(pods[0], case.now)) > 0:
        return Decision("ending", requeue_after=left)
    if (found := _result(case)) is not None:
        return replace(succeeded("outlived", case, found, added.word(pods[0])), delete=child)
    cause = pod_failure(pods[0]) or success_of(pods)
    if not isinstance(cause, Failure):
        return None
    if CATALOGUE[cause.category].permanent:
        return failed("outlived", case, cause, stop=child)
    more = {"message": clean(f"{cause.message}; {added.untried(pods[0])}")}
    return failed("outlived", case, cause.model_copy(update=more), stop=child)


def hopeless(case: Case) -> Decision | None:
    """A pod failed in a way that the next one would too, and the Job cannot know it."""
    cause = retry.hopeless(case.observed.pods)
    if cause is None or searching.published(case) is not None:
        return None
    return failed("hopeless", case, cause, stop=case.child)


def stragglers(case: Case) -> Decision | None:
    """A worker has published the result, and others have not ended after it: they are not waited for without end."""
    found = searching.published(case)
    if found is None or searching.left_to_end(case) > 0:
        return None
    return replace(succeeded("published", case, found), delete=case.child)


def last_moment(case: Case) -> Decision | None:
    """The last quantizer ended for good, or one of several failed for all; the Job will say so in a moment."""
    child, pods = case.child, case.observed.pods
    ended = [pod for pod in pods if _for_good(pod)]
    others = [pod for pod in living(pods) if pod not in ended]
    fails = any(pod.exit_code in PERMANENT_EXIT_CODES for pod in ended)
    goes_on = others or (child is not None and missing(child, pods))
    return Decision("ending") if ended and (fails or not goes_on) else None


def _for_good(pod: ChildPod) -> bool:
    ended = pod.exit_code in (0, *PERMANENT_EXIT_CODES) and not pod.disruption
    return pod.phase == "Succeeded" or ended


def job_deleted(case: Case) -> Decision | None:
    """The Job was made, and is gone without having ended, and not by a pause: that takes its name out of status.

    One that this process knew may be gone before its name is in the status; and a request to create it that was given
    up may arrive when it is gone, so that another has its name. That one goes too: the user wanted none.
    """
    child, adopted = case.child, case.observed.adopted
    gone = bool(case.qjob.job_name or adopted) if child is None else bool(adopted) and child.uid != adopted
    if not gone:
        return None
    if not case.observed.fresh:
        return Decision("job deleted", look="objects")
    name = case.qjob.job_name or workload.job_name(case.qjob.name, case.qjob.uid)
    cause = failure(Category.JOB_DELETED, f"Job {name} was deleted before it finished")
    believed = case.qjob.job_uid or adopted or None
    stray = child or case.observed.stray
    return failed("job deleted", case, cause, stop=stray, job_name=name, job_uid=believed)
