"""spec.managedBy: who reconciles the object, as for a batch/v1 Job (KEP-4368)."""

from quantization_api import GROUP
from quantization_operator.snapshots import QuantizationJob

OURS = f"{GROUP}/operator"


def another(qjob: QuantizationJob) -> bool:
    """Whether another controller manages it, for example one that sends it to another cluster."""
    return qjob.managed_by not in ("", OURS)
