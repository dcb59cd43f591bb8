"""Two QuantizationJobs with the same output: one of them works, and the other is told so before it costs a pod.

Only objects of one namespace are compared, so that nobody can see, or hold up, the jobs of others. What this
cannot know the pod decides, in one place (quantizer.store): the claim on the output keeps two runs apart, and an
artifact that is already there is the result when its recipe is the same, and a conflict when it is not.

So nothing is proven without a pod: the recipe is a digest over the workflow *and* the revisions of the model and
of the texts, and a job that Succeeded with the same workflow says neither that its inputs are still the same
bytes nor that its artifact is still there. Both are read by the pod, within seconds, before it computes anything.
Who knows that both hold may have such a job believed, unproven: `reuse`.
"""

from collections.abc import Iterable

from quantization_operator.decision import Peer
from quantization_operator.snapshots import QuantizationJob


def holder(qjob: QuantizationJob, peers: Iterable[Peer]) -> Peer | None:
    """The unfinished job that goes first: one that has a Job, else the oldest; None when it is this one."""
    open_ones = [peer for peer in peers if not peer.finished and not peer.deleting]
    running = [peer for peer in open_ones if peer.has_job]
    earlier = [peer for peer in open_ones if (peer.created, peer.uid) < (qjob.created, qjob.uid)]
    return min(running or earlier, key=lambda peer: (peer.created, peer.uid), default=None)


def leaving(peers: Iterable[Peer]) -> Peer | None:
    """A job that is being deleted: its pod may still write, or its artifact be removed."""
    return next((peer for peer in peers if peer.deleting), None)
