"""Before there is a Job: a pause, a spec that cannot be run, an output that is taken, a result to believe, the Job."""

from quantization_api.failures import Category
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Failure
from quantization_operator import cures, workload
from quantization_operator.conditions import SUSPENDED_REASON, State
from quantization_operator.decision import Case, Decision
from quantization_operator.defaults import given
from quantization_operator.diagnose import failure, with_cure
from quantization_operator.hindrances import refused
from quantization_operator.outcome import failed, next_status, taken_over, told
from quantization_operator.policies import (
    admission,
    again,
    artifact,
    conflict,
    limits,
    pause,
    rejected,
    retry,
    reuse,
)

LOOK_AGAIN_SECONDS = 5.0
"""The end of another object is not told to the jobs that wait for it."""


def refused_spec(case: Case) -> Decision | None:
    """A stored spec that cannot be run is told at once, also during a pause: nothing would become better by waiting."""
    if case.child is not None or case.qjob.job_name:
        return None
    spec = admission.admit(case.qjob.spec, case.qjob.problem)
    cause = (
        spec if isinstance(spec, Failure) else limits.refusal(spec, case.settings) or _not_given(case, spec)
    )
    return failed("refused spec", case, cause) if cause else None


def _not_given(case: Case, spec: QuantizationJobSpec) -> Failure | None:
    """Why the defaults of the cluster and the spec do not go together."""
    found = given(spec, case.observed.defaults, case.qjob.queue_labels)
    return found if isinstance(found, Failure) else None


def paused(case: Case) -> Decision | None:
    """spec.suspend: no Job. The pod is told by SIGTERM; its finished layers wait beside the output.

    The Job's name leaves the status, so that its absence is no accident (`ending.job_deleted`) and the end of the
    pause makes a new one. A queue's own suspension of the Job is another thing: it is the queue's to end.
    """
    if not case.qjob.suspend:
        return None
    child = case.child or case.observed.stray
    state = State("suspended", SUSPENDED_REASON, "spec.suspend is true; set it to false to resume")
    status = next_status(case, state, job_name=None, job_uid=None)
    stop = child if child is not None and not child.deleting else None
    return Decision("paused", status=status, delete=stop, adopted="", events=told(case, status))


def superseded(case: Case) -> Decision | None:
    """The job started again, and the Job from before is still there: what it says is of the past."""
    child = case.child
    if child is None or not again.superseded(case.qjob, child):
        return None
    return Decision("superseded", delete=None if child.deleting else child, adopted="")


def stopping(case: Case) -> Decision | None:
    """Going on after a pause: the earlier Job is still there until its pod has saved and ended."""
    child = case.child
    if child is None or not pause.left_over(case.qjob, child):
        return None
    state = State("in progress", "Stopping", f"waiting for the pod of Job {child.name} to end")
    status = next_status(case, state, job_name=None, job_uid=None)
    stop = None if child.deleting else child
    return Decision("stopping", status=status, delete=stop, adopted="", events=told(case, status))


def output_taken(case: Case) -> Decision | None:
    """Another QuantizationJob writes, or is about to write, to the same output."""
    if case.child is not None:
        return None
    if holder := conflict.holder(case.qjob, case.observed.peers):
        sentence = (
            f"QuantizationJob {holder.name} uses the output {case.qjob.output} and has not finished; "
            "wait for it, or delete it"
        )
        return failed("output taken", case, failure(Category.ARTIFACT_CONFLICT, sentence))
    if leaving := conflict.leaving(case.observed.peers):
        message = f"waiting for QuantizationJob {leaving.name}, which has the same output, to be deleted"
        status = next_status(case, State("in progress", "OutputInUse", message))
        return Decision(
            "output in use", status=status, events=told(case, status), requeue_after=LOOK_AGAIN_SECONDS
        )
    return None


def trusted(case: Case) -> Decision | None:
    """spec.reuse is Trusted, and a job with the same output succeeded: its result, without a pod, if it may be had.

    Not from the cache: the other job may be on its way out by now, and a Job may run that the cache does not know of.
    One that failed, and is judged again, is no peer of the other: that would not keep its artifact for it.
    """
    last = reuse.last(case.observed.peers) if case.child is None and not case.qjob.finished else None
    if last is None or (spec := reuse.trusts(case.qjob.spec)) is None:
        return None
    if case.observed.earlier is None:
        return Decision("trusted", look="earlier")
    found = reuse.believed(spec, last, case.observed.earlier)
    if found is None:
        return None
    if not case.observed.fresh:
        return Decision("trusted", look="objects")
    if finalizers := artifact.finalizers(case.qjob, makes_artifact=True):
        return Decision("trusted", finalizers=finalizers)
    return taken_over("trusted", case, last.name, found)


def create(case: Case) -> Decision | None:
    """Make the Job, if the API server takes it; before it the finalizer, if the artifact is to go with the object."""
    if case.child is not None:
        return None
    rejection = case.observed.rejection
    if rejection is None:
        if finalizers := artifact.finalizers(case.qjob, makes_artifact=True):
            return Decision("create", finalizers=finalizers)
        spec = admission.admit(case.qjob.spec, case.qjob.problem)
        if isinstance(spec, Failure):
            raise AssertionError("a spec that is refused was decided above")
        found = given(spec, case.observed.defaults, case.qjob.queue_labels)
        if isinstance(
            found, Failure
        ):  # a change of the defaults between two decisions, or since the last Job
            return failed("refused spec", case, found)
        before = retry.counted(case.before.attempts)
        return Decision(
            "create", create=workload.build(case.qjob, found.spec, case.settings, before, found.beside)
        )
    if rejection.taken:
        return failed("name taken", case, failure(Category.INTERNAL, rejection.message))
    if rejected.for_good(rejection):
        hint = "Correct spec.template: the API server rejects the Job built from it."
        return failed("refused job", case, failure(Category.INVALID_WORKFLOW, rejection.message, hint=hint))
    cure = cures.cure(cures.REFUSED_JOB, rejection.message)
    cause = failure(refused(rejection.message), rejection.message, hint=cure)
    status = next_status(case, State("in progress", "JobRefused", with_cure(cause)))
    return Decision(
        "refused job",
        status=status,
        events=told(case, status),
        retry=True,
        retry_after=rejection.retry_after,
    )
