"""artifactPolicy Delete: the artifact goes with the object, and the object never stays because of the artifact."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from quantization_operator.decision import Peer, Refusal
from quantization_operator.policies import refused
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import FINALIZER, JobRequest

NAMESPACE_GOES = "is being terminated"
"""Part of the API server's refusal to create anything in a namespace that is being deleted."""

LEAST_TRY_SECONDS = 60.0
"""So long a process tries at least, also one that was down until the bound had passed."""


def finalizers(request: JobRequest, makes_artifact: bool) -> tuple[str, ...] | None:
    """The finalizers that the object should have; None when it has them.

    Ours only when there may be something to remove: with the policy Delete, and a Job, or a result without one, that
    there is or that comes now.
    """
    has = FINALIZER in request.finalizers
    made = bool(request.job_name) or request.finished == "Succeeded"
    wanted = request.deletes_artifact and (makes_artifact or has or made)
    if wanted == has:
        return None
    return (*request.finalizers, FINALIZER) if wanted else without(request)


def without(request: JobRequest) -> tuple[str, ...]:
    """The finalizers of everybody else."""
    return tuple(name for name in request.finalizers if name != FINALIZER)


def kept_for(peers: Iterable[Peer]) -> Peer | None:
    """Another job that has, or is making, the artifact at the same output: it must not lose it."""
    return next((peer for peer in peers if not peer.deleting and (peer.has_job or peer.finished)), None)


def left(since: datetime, settings: OperatorSettings, now: datetime) -> float:
    """Seconds until a step of the clean-up is given up; 0: now."""
    return max(0.0, (since + timedelta(seconds=settings.cleanup_deadline_seconds) - now).total_seconds())


def left_to_try(deleted: datetime, tried: datetime, settings: OperatorSettings, now: datetime) -> float:
    """Seconds until what the API server does not do is given up; 0: now.

    deleted: when the object was. tried: when this process tried for the first time.
    """
    least = min(LEAST_TRY_SECONDS, settings.cleanup_deadline_seconds) - (now - tried).total_seconds()
    return max(left(deleted, settings, now), least)


def hopeless(refusal: Refusal) -> bool:
    """Whether a clean-up Job that was refused would be refused again, for as long as the namespace exists."""
    return refused.for_good(refusal) or NAMESPACE_GOES in refusal.message
