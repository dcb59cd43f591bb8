"""artifactPolicy Delete: the artifact goes with the object, and the object never stays because of the artifact."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from quantization_api.failures import Category
from quantization_api.status import QuantizationJobStatus
from quantization_operator.decision import Peer, Rejection
from quantization_operator.pods import ChildPod
from quantization_operator.policies import rejected
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import FINALIZER, QuantizationJob

NAMESPACE_GOES = "is being terminated"
"""Part of the API server's rejection to create anything in a namespace that is being deleted."""

LEAST_TRY_SECONDS = 60.0
"""How long a process tries at least, also one that was down until the bound had passed."""


def finalizers(qjob: QuantizationJob, makes_artifact: bool) -> tuple[str, ...] | None:
    """The finalizers that the object should have; None when it has them.

    Ours only when there may be something to remove: with the policy Delete, and a Job, or a result without one, that
    there is or that comes now.
    """
    has = FINALIZER in qjob.finalizers
    made = bool(qjob.job_name) or qjob.finished == "Succeeded"
    wanted = qjob.deletes_artifact and (makes_artifact or has or made)
    if wanted == has:
        return None
    return (*qjob.finalizers, FINALIZER) if wanted else without(qjob)


NEVER_RAN = (
    Category.INVALID_WORKFLOW,
    Category.IMAGE_PULL_FAILED,
    Category.IMAGE_UNUSABLE,
    Category.VOLUME_NOT_FOUND,
    Category.SERVICE_ACCOUNT_NOT_FOUND,
    Category.PRIORITY_CLASS_NOT_FOUND,
    Category.RUNTIME_CLASS_NOT_FOUND,
    Category.RESOURCE_CLAIM_NOT_FOUND,
    Category.SCHEDULER_NOT_FOUND,
    Category.QUOTA_EXCEEDED,
    Category.ADMISSION_DENIED,
    Category.UNSCHEDULABLE,
)
"""Failures of jobs whose last pod, if there was one, never began."""


def nothing_written(qjob: QuantizationJob, status: QuantizationJobStatus, pods: Sequence[ChildPod]) -> bool:
    """Whether no quantizer of this object can have written anything: none ever began, as far as anything shows.

    What an earlier attempt, a disruption or progress shows, or a restart hides, counts as a run.
    """
    began = any(pod.running or pod.exit_code is not None for pod in pods)
    if began or qjob.finished == "Succeeded" or qjob.restarts or status.attempts or status.progress:
        return False
    if status.failure is None:
        return not (qjob.job_name or status.start_time)
    return status.failure.category in NEVER_RAN and status.failure.exit_code is None


def without(qjob: QuantizationJob) -> tuple[str, ...]:
    """The finalizers of everybody else."""
    return tuple(name for name in qjob.finalizers if name != FINALIZER)


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


def hopeless(rejection: Rejection) -> bool:
    """Whether a clean-up Job that was refused would be refused again, for as long as the namespace exists."""
    return rejected.for_good(rejection) or NAMESPACE_GOES in rejection.message
