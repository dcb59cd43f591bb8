"""Which points are best: the Pareto front, the order, and the choice. Pure.

The figures of a point are the metrics of the workflow, in its order, and its size. The order of the metrics says what
matters most: of the points that meet all goals, the one with the best first metric is chosen; where two are equal in
it, the next metric decides, and at last the size. So a workflow that names size_on_disk first asks for the smallest
model that meets the goals of the others.
"""

from collections.abc import Sequence

from quantization_api.manifest import TrialRecord
from quantization_api.metrics import Metric
from quantizer.evaluation.goals import LOWER_IS_BETTER, missed_goal

Figures = tuple[float, ...]
"""Of one point; lower is better in each."""


def figures(record: TrialRecord, metrics: Sequence[Metric]) -> Figures | None:
    """The figures of a point; None for one that did not finish."""
    if record.state != "Finished" or record.size_bytes is None:
        return None
    found: list[float] = []
    for metric, result in zip(metrics, record.metrics, strict=True):
        if result.output is None:
            return None
        found.append(result.output if metric.type in LOWER_IS_BETTER else -result.output)
    return (*found, float(record.size_bytes))


def dominates(one: Figures, other: Figures) -> bool:
    """Whether one is as good in all figures and better in one."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[TrialRecord]:
    """The points that no other dominates, in the order of the records."""
    known = [(record, found) for record in records if (found := figures(record, metrics)) is not None]
    return [record for record, mine in known if not any(dominates(other, mine) for _, other in known)]


def missed(record: TrialRecord, metrics: Sequence[Metric]) -> list[str]:
    """A sentence for each goal that a finished point misses."""
    judged = (
        missed_goal(metric, result.input, result.output)
        for metric, result in zip(metrics, record.metrics, strict=True)
        if result.output is not None
    )
    return [sentence for sentence in judged if sentence is not None]


def ranked(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[TrialRecord]:
    """The finished points, best first: those that meet more goals, then by their figures."""
    known = [(record, found) for record in records if (found := figures(record, metrics)) is not None]
    known.sort(
        key=lambda pair: (len(missed(pair[0], metrics)), pair[1])
    )  # stable: an earlier point wins a tie
    return [record for record, _ in known]


def best(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], *, whatever_goals: bool = False
) -> TrialRecord | None:
    """The point to choose: the first in the order, if it meets all goals."""
    order = ranked(records, metrics)
    return order[0] if order and (whatever_goals or not missed(order[0], metrics)) else None
