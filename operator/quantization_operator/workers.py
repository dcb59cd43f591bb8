"""The pods of a Job as its workers: a search may have several at once, every other job has one. Pure."""

from collections.abc import Sequence

from quantization_operator.pods import ChildPod
from quantization_operator.snapshots import ChildJob


def by_age(pods: Sequence[ChildPod]) -> list[ChildPod]:
    """The pods, the newest last."""
    return sorted(pods, key=lambda pod: (pod.created, pod.uid))


def living(pods: Sequence[ChildPod]) -> list[ChildPod]:
    """The pods that have not ended, the newest last."""
    return [pod for pod in by_age(pods) if pod.phase not in ("Failed", "Succeeded")]


def running(pods: Sequence[ChildPod]) -> list[ChildPod]:
    """The pods that run and stay, the newest last."""
    return [pod for pod in living(pods) if pod.running and not pod.deleting]


def idle(pods: Sequence[ChildPod]) -> list[ChildPod]:
    """The pods that have not begun, the newest last."""
    return [pod for pod in living(pods) if not pod.running]


def ended_well(pods: Sequence[ChildPod]) -> list[ChildPod]:
    """The pods whose quantizer ended with exit code 0, the newest last."""
    return [pod for pod in by_age(pods) if pod.phase == "Succeeded" or pod.exit_code == 0]


def missing(child: ChildJob, pods: Sequence[ChildPod]) -> bool:
    """Whether the Job is to make another pod: each worker has to end well once."""
    return len(living(pods)) + len(ended_well(pods)) < child.workers
