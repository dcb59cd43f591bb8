"""spec.parallelism: how many pods share the points of a search.

The Job is an Indexed one: the pod that takes the place of a lost one has its number, and so goes on with its point at
once, where any other worker must first be sure that nobody works on it. A worker ends well when the whole search has
an end, so each needs one success, and the first of them has the result of all (`rules/searching.py`).
"""

from typing import Any

from quantization_api.search import grid_size
from quantization_api.spec import QuantizationJobSpec


def workers(spec: QuantizationJobSpec) -> int:
    """Pods that a Job begins with: no more than there are points."""
    strategy = spec.workflow.search_strategy
    if strategy is None:
        return 1
    points = grid_size(strategy)
    return min(spec.parallelism, points, strategy.max_samples or points)


def job_fields(spec: QuantizationJobSpec) -> dict[str, Any]:
    """The fields of the Job's spec, or nothing: a Job has one pod by itself."""
    count = workers(spec)
    return {} if count == 1 else {"completionMode": "Indexed", "completions": count, "parallelism": count}
