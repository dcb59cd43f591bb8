"""spec.reuse Trusted: the result of another job is this job's result, and no pod is started to look.

Believed is only the job that succeeded last at the output, since no other says what lies there now, and only when it
asked for the same. What nobody reads is not noticed: a model or a text that was replaced at its address, an artifact
that was removed or damaged, an image that changed under its name, or a default of the operator that did (image,
calibration text), and a spec that was edited after its job had ended. So it has to be asked for.

A result must not be taken over while it is removed. A job reads the other one from the API server before it believes
it, so it knows of a deletion that came before; of one that comes after, the other's clean-up sees the heir (`heir`).
"""

from collections.abc import Iterable
from datetime import datetime

from quantization_api.recipe import canonical_workflow
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import QuantizationJobStatus
from quantization_operator.decision import Peer
from quantization_operator.policies import admission
from quantization_operator.snapshots import QuantizationJob


def trusts(spec: str) -> QuantizationJobSpec | None:
    """The spec of a job that would believe another one now; None of one that would not."""
    found = admission.admit(spec) if spec else None
    if not isinstance(found, QuantizationJobSpec) or found.reuse != "Trusted" or found.suspend:
        return None
    return found


def last(peers: Iterable[Peer]) -> Peer | None:
    """The job that succeeded last at the output, and stays."""
    done = [peer for peer in peers if peer.finished and not peer.deleting]
    return max(done, key=_end, default=None)


def _end(peer: Peer) -> tuple[datetime, datetime, str]:
    return peer.completed or peer.created, peer.created, peer.uid


def believed(
    spec: QuantizationJobSpec, peer: Peer, earlier: Iterable[QuantizationJob]
) -> QuantizationJobStatus | None:
    """The status of the peer, if its result is to be believed. earlier: what was read of the peer, if it was there."""
    for found in earlier:
        stays = found.uid == peer.uid and not found.deleting
        settled = found.finished == "Succeeded" and found.observed_generation == found.generation
        if stays and settled and _asks_for(spec, found.spec):
            status = found.read_status()
            return status if status.artifact is not None else None
    return None


def heir(qjob: QuantizationJob, peers: Iterable[Peer]) -> Peer | None:
    """A job that may be about to take over the result of this one, which is being deleted.

    It has read this one already, or will not have it: that is known by which was there first.
    """
    if qjob.finished != "Succeeded" or qjob.deleted is None:
        return None
    for peer in peers:
        if peer.finished or peer.deleting or peer.created > qjob.deleted:
            continue
        spec = trusts(peer.spec)
        if spec is not None and _asks_for(spec, qjob.spec):
            return peer
    return None


def _asks_for(spec: QuantizationJobSpec, other: str) -> bool:
    """Whether another spec leads to the same result at the same place, as far as specs can tell."""
    found = admission.admit(other)
    return isinstance(found, QuantizationJobSpec) and _identity(found) == _identity(spec)


def _identity(spec: QuantizationJobSpec) -> tuple[object, ...]:
    """Volumes say what a path means, also one of the workflow; their names and whether they are written do not."""
    mounts = {
        volume.model_dump_json(exclude={"name", "read_only"}, exclude_none=True)
        for volume in spec.template.volumes
    }
    return (
        canonical_workflow(spec.workflow),
        spec.output.uri.rstrip("/"),
        (spec.storage.endpoint or "").rstrip("/"),
        spec.template.image,
        mounts,
    )
