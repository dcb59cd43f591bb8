"""spec.suspend: which Job is from before a pause or a restart, and goes whatever the cache still shows of it."""

from collections.abc import Sequence

from quantization_operator.policies import again
from quantization_operator.snapshots import ChildJob, ChildPod, QuantizationJob


def left_over(qjob: QuantizationJob, child: ChildJob) -> bool:
    """Whether a Job goes, or is to go, although it may not say so yet: a pause or a restart took its name out of the
    status.

    Its deletion may have been sent and not have arrived when the pause ends, so that it must not be taken for one
    that goes on. The Job that follows was made for a later generation than the one whose status has no Job.
    """
    if qjob.job_name:
        return False
    return child.deleting or child.generation < qjob.observed_generation or again.superseded(qjob, child)


def telling(qjob: QuantizationJob, child: ChildJob | None, pods: Sequence[ChildPod]) -> list[ChildPod]:
    """The pods of the child that say how its attempts went: those that a pause deletes do not.

    Kubernetes may call such a pod Failed, as one that was deleted before its container ran.
    """
    pausing = qjob.suspend or (child is not None and left_over(qjob, child))
    return [pod for pod in pods if not (pausing and pod.deleting)]
