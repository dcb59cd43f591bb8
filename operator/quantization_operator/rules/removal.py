"""An object that is not ours, that is going away, or whose artifact is to go away with it."""

from quantization_api.pod import RunResult
from quantization_api.status import Failure
from quantization_operator import workload
from quantization_operator.decision import Case, Decision, Event, Rejection
from quantization_operator.defaults import Given, given
from quantization_operator.diagnose import forged, job_failure, success_of
from quantization_operator.policies import admission, artifact, limits, managed_by, reuse
from quantization_operator.rules import cleaning
from quantization_operator.snapshots import FINALIZER

LEFT = "ArtifactLeft"
KEPT = "ArtifactKept"


def left_alone(case: Case) -> Decision | None:
    """spec.managedBy names another controller: nothing is read into this object, and nothing written."""
    return Decision("left alone") if managed_by.another(case.qjob) else None


def deleting(case: Case) -> Decision | None:
    """Without our finalizer the garbage collector removes the Job, and nothing is written to what is going away."""
    qjob = case.qjob
    if not qjob.deleting:
        return None
    return clean_up(case) if FINALIZER in qjob.finalizers else Decision("deleting")


def clean_up(case: Case) -> Decision:
    """artifactPolicy Delete: stop the Job, remove the artifact by a Job of its own, let the object go.

    Never without end: whatever keeps the artifact from being removed, after the bound the object goes, and an event
    says what was left where. Each step is tried before its bound is looked at, so that the reason can be told, and
    what was deleted while the operator was down is tried all the same.
    """
    qjob, observed, child = case.qjob, case.observed, case.child
    kept_for = artifact.kept_for(observed.peers)
    if kept_for is None and observed.cleanup is None:
        kept_for = reuse.heir(qjob, observed.peers)
    if kept_for is not None:
        message = f"the artifact at {qjob.output} is kept: it also belongs to QuantizationJob {kept_for.name}"
        return _release(case, Event("Normal", KEPT, message))
    job, bound = observed.cleanup, case.settings.cleanup_deadline_seconds
    if job is not None and job.ended == "Complete":
        return Decision("cleaned up", release=True)
    if job is not None and job.ended == "Failed":
        if not observed.fresh:
            return Decision("clean up", look="objects")
        return _give_up(case, job_failure(job, observed.cleanup_pods).message)
    if child is not None and not child.ended:
        if child.deleted is None:
            if observed.rejection is not None:
                return _rejected("stop", case, observed.rejection)
            return Decision("stop", delete=child, requeue_after=bound, problem=observed.problem)
        if (left := artifact.left(child.deleted, case.settings, case.now)) == 0:
            return _give_up(case, f"Job {child.name} did not stop within {bound:.0f} s")
        return Decision("stop", requeue_after=left)
    if job is not None:
        if (left := artifact.left(job.created, case.settings, case.now)) == 0:
            return _give_up(case, f"Job {job.name} did not finish within {bound:.0f} s")
        found = cleaning.watched(case, job, left)
        return found if isinstance(found, Decision) else _give_up(case, found.told)
    if not observed.fresh:
        return Decision("clean up", look="objects")  # a pod that the cache does not know of may still write
    return _make_clean_up(case)


def _make_clean_up(case: Case) -> Decision:
    qjob = case.qjob
    if artifact.nothing_written(qjob, case.before, case.observed.pods):
        return Decision("cleaned up", release=True)
    spec = admission.admit(qjob.spec, qjob.problem)
    if isinstance(spec, Failure):
        return _give_up(case, f"the stored spec is not valid: {spec.message}")
    if not_allowed := limits.refusal(spec, case.settings):
        return _give_up(case, not_allowed.message)
    if (rejection := case.observed.rejection) is None:
        found = success_of(case.observed.pods)  # of a job that was deleted before its success was written
        ours = isinstance(found, RunResult) and forged(found, qjob.output, None) is None
        recipe = case.before.recipe or (found.recipe if ours and isinstance(found, RunResult) else None)
        whole = given(spec, case.observed.defaults, qjob.queue_labels)
        whole = Given(spec) if isinstance(whole, Failure) else whole  # its class is gone, or was never there
        made = workload.build_cleanup(
            qjob, whole.spec, case.settings, recipe, whole.beside, bare=cleaning.bare(case)
        )
        return Decision("clean up", create=made)
    if artifact.hopeless(rejection):
        return _give_up(case, rejection.message)
    return _rejected("clean up", case, rejection)


def _rejected(rule: str, case: Case, rejection: Rejection) -> Decision:
    """A step of the removal was tried just now, and the API server did not do it."""
    known = case.observed.problem
    tried = known[1] if known and known[0] == rule else case.now
    left = artifact.left_to_try(case.qjob.deleted or case.now, tried, case.settings, case.now)
    if left == 0:
        return _give_up(case, rejection.message)
    return Decision(
        rule, problem=(rule, tried), requeue_after=left, retry=True, retry_after=rejection.retry_after
    )


def _give_up(case: Case, why: str) -> Decision:
    message = f"the artifact may still be at {case.qjob.output}, remove it by hand: {why}"
    return _release(case, Event("Warning", LEFT, message))


def _release(case: Case, event: Event) -> Decision:
    """A clean-up that still tries must not go on after it was told that the artifact is left."""
    job = case.observed.cleanup
    stop = job if job is not None and not job.ended and not job.deleting else None
    return Decision("released", delete=stop, events=(event,), release=True)


def finalizer(case: Case) -> Decision | None:
    """artifactPolicy was changed after the Job was made, or the result taken over."""
    wanted = artifact.finalizers(case.qjob, makes_artifact=False)
    return None if wanted is None else Decision("finalizer", finalizers=wanted)
