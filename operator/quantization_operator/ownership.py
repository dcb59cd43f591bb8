"""Which Job is a QuantizationJob's own, and which pods are that Job's: pure.

A label is anybody's word. A Job is the own one when it lies in the namespace of the QuantizationJob, has the name that
follows from its uid, is controlled by it, and is the one whose uid was recorded when it was made or first believed.
As long as none is recorded (the operator was killed between the two writes) the first three decide, and the generation
that the Job says it was made for, as read from the API server at that moment. A pod is one of that Job when the Job
controls it.
"""

from collections.abc import Iterable, Sequence

from quantization_operator.snapshots import ChildJob, ChildPod, QuantizationJob
from quantization_operator.workload import cleanup_name, job_name


def fits(qjob: QuantizationJob, job: ChildJob) -> bool:
    """Whether a Job has the place, the name and the controller of the QuantizationJob's own."""
    return (
        job.owner_uid == qjob.uid == job.qjob_uid
        and job.namespace == qjob.namespace
        and job.generation <= qjob.generation
        and job.name == job_name(qjob.name, qjob.uid)
    )


def own_job(qjob: QuantizationJob, jobs: Iterable[ChildJob], recorded: str) -> ChildJob | None:
    """The Job that is believed. recorded: its uid, "" while there is none."""
    return next((job for job in jobs if recorded in ("", job.uid) and fits(qjob, job)), None)


def stray_job(qjob: QuantizationJob, jobs: Iterable[ChildJob], recorded: str) -> ChildJob | None:
    """A Job that has the own one's name, and is another: made by a late request, or by somebody else."""
    return next((job for job in jobs if recorded not in ("", job.uid) and fits(qjob, job)), None)


def is_cleanup(qjob: QuantizationJob, job: ChildJob) -> bool:
    """Whether a Job is the one that removes the artifact; nothing controls that one."""
    return (
        job.owner_uid == ""
        and job.qjob_uid == qjob.uid
        and job.namespace == qjob.namespace
        and job.name == cleanup_name(qjob.name, qjob.uid)
    )


def cleanup_job(qjob: QuantizationJob, jobs: Iterable[ChildJob]) -> ChildJob | None:
    """The Job that removes the artifact."""
    return next((job for job in jobs if is_cleanup(qjob, job)), None)


def pods_of(job: ChildJob | None, pods: Sequence[ChildPod]) -> tuple[ChildPod, ...]:
    """The pods of this Job: those of a Job from before a pause may still be known."""
    return tuple(
        pod for pod in pods if job is not None and pod.job_uid == job.uid and pod.namespace == job.namespace
    )
