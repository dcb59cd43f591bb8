"""How long a job may wait for something that may never come.

Kubernetes retries an image, a mount and a pod's admission forever, and the Job stays "running" without a
pod that runs. What is likely to heal by itself (a node, quota) may be waited for without end; what is likely
to be a mistake in the manifest gets a patience.
"""

from datetime import datetime, timedelta

from quantization_operator.hindrances import Problem
from quantization_operator.settings import OperatorSettings


def seconds(problem: Problem, settings: OperatorSettings) -> float | None:
    """How long this problem is tolerated; None: forever."""
    match problem.patience:
        case "image":
            return settings.image_pull_patience_seconds
        case "start":
            return settings.start_patience_seconds
        case "schedule":
            return settings.unschedulable_patience_seconds
        case "never":
            return None


def left(problem: Problem, since: datetime, now: datetime, settings: OperatorSettings) -> float | None:
    """Seconds until patience ends (0: it has); None: never. A name that cannot be an image is not waited for."""
    if problem.failure.message.startswith("InvalidImageName"):
        return 0.0
    limit = seconds(problem, settings)
    if limit is None:
        return None
    return max(0.0, (since + timedelta(seconds=limit) - now).total_seconds())
