"""When a job that failed starts again, and what the user reads of a change that waits for the next Job.

Success is final. A failure is not: what its hint says to change may be changed, and the job starts again by itself,
from the layers that are saved and with all its attempts. `status.restarts` counts it, and the Job carries the count,
so that the Job that failed is never taken for the one that follows.
"""

from quantization_operator.parts import CORRECTIONS, RETRY, RETRY_ANNOTATION, UNKNOWN
from quantization_operator.snapshots import ChildJob, QuantizationJob

ANNOTATE = f'kubectl annotate qj NAME {RETRY_ANNOTATION}="$(date +%s)" --overwrite'
"""The command that starts a failed job again, whatever has changed."""


def wanted(qjob: QuantizationJob) -> bool:
    """Whether a job that failed is to start again: a correction that was never tried, or a word of its user."""
    return qjob.finished == "Failed" and (RETRY in qjob.changed or _corrected(qjob))


def _corrected(qjob: QuantizationJob) -> bool:
    return bool(qjob.job_name) and not set(CORRECTIONS).isdisjoint(qjob.changed)


def superseded(qjob: QuantizationJob, child: ChildJob) -> bool:
    """Whether a Job is from before the job started again."""
    return child.restarts < qjob.restarts


def why(qjob: QuantizationJob) -> str:
    """Why it starts again, for its user."""
    asked = f"the annotation {RETRY_ANNOTATION} asks for it" if RETRY in qjob.changed else ""
    return " and ".join(filter(None, (_fields(qjob), asked)))


def waits(qjob: QuantizationJob) -> str:
    """Of a job whose Job exists: what the Job runs without, and how to apply it; "" when that is nothing."""
    fields = _fields(qjob)
    if not fields:
        return ""
    later = " If the job fails, it starts again with the change." if _corrected(qjob) else ""
    return (
        f"{fields} after the Job was made, so the Job runs without the change.{later} To apply it now, set "
        "spec.suspend to true and then to false: the layers that are saved are kept."
    )


def ignored(qjob: QuantizationJob) -> str:
    """Of a job that has ended and stays so: what has no effect, and how to get it; "" when that is nothing."""
    if qjob.finished == "Succeeded":
        known = "" if qjob.changed == UNKNOWN else _fields(qjob)
        said = known or (f"{RETRY_ANNOTATION} was set" if RETRY in qjob.changed else "")
        cure = "Success is final: to run the job again, delete the object and apply it."
    else:
        said, cure = _fields(qjob), f"To start the failed job again: {ANNOTATE.replace('NAME', qjob.name)}"
    return f"{said}, which has no effect: the job has ended. {cure}" if said else ""


def _fields(qjob: QuantizationJob) -> str:
    names = [f"spec.{name}" if name != "spec" else name for name in qjob.changed if name != RETRY]
    return f"{' and '.join(names)} changed" if names else ""
