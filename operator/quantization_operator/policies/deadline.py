"""activeDeadlineSeconds: the Job's own deadline, passed through.

It runs from the Job's startTime, and starts anew with each start: when a queue suspends and resumes the Job, and
when a pause of the user ends, which makes a new Job.
"""

from typing import Any

from quantization_api.spec import QuantizationJobSpec


def job_fields(spec: QuantizationJobSpec) -> dict[str, Any]:
    """The field of the Job's spec, or nothing: without a deadline a job may run forever."""
    if spec.active_deadline_seconds is None:
        return {}
    return {"activeDeadlineSeconds": spec.active_deadline_seconds}
