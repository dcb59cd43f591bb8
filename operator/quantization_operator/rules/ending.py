"""How a job ends: its Job completes, gives up or disappears, or a pod shows that going on has no use."""

from dataclasses import replace

from quantization_api.failures import PERMANENT_EXIT_CODES, Category
from quantization_api.pod import RunResult
from quantization_operator import workload
from quantization_operator.decision import Case, Decision
from quantization_operator.diagnose import failure, forged, job_failure, success_of
from quantization_operator.outcome import failed, succeeded
from quantization_operator.policies import retry, ttl
from quantization_operator.rules import searching
from quantization_operator.snapshots import ChildPod
from quantization_operator.workers import living, missing


def finished(case: Case) -> Decision | None:
    """An end is final. What is left: to stop a Job that still tries, to observe later changes, to expire.

    Only a spec that was refused before any Job was made is judged again when it changes.
    """
    qjob, child = case.qjob, case.child
    if not qjob.finished:
        return None
    changed = qjob.observed_generation != qjob.generation
    if changed and qjob.finished == "Failed" and not qjob.job_name:
        return None
    left = ttl.left(qjob.ttl_seconds, qjob.completed, case.now)
    if left == 0:
        return Decision("expired", remove=True)
    status = case.before.model_copy() if changed else None
    if status is not None:
        status.observed_generation = qjob.generation
        status.conditions = [
            c.model_copy(update={"observed_generation": qjob.generation}) for c in status.conditions
        ]
    lingers = child is not None and not child.ended and not child.deleting
    return Decision("finished", status=status, delete=child if lingers else None, requeue_after=left)


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
    if (found := searching.published(case)) is not None:
        return succeeded("published", case, found)
    return failed("job failed", case, job_failure(child, case.observed.pods))


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
