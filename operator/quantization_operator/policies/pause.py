"""spec.suspend: which Job is from before a pause, and goes whatever the cache still shows of it."""

from quantization_operator.snapshots import ChildJob, JobRequest


def left_over(request: JobRequest, child: ChildJob) -> bool:
    """Whether a Job goes, or is to go, although it may not say so yet: a pause took its name out of the status.

    Its deletion may have been sent and not have arrived when the pause ends, so that it must not be taken for one
    that goes on. The Job that follows was made for a later generation than the one whose status has no Job.
    """
    if request.job_name:
        return False
    return child.deleting or child.generation < request.observed_generation
