"""Which points are best: the Pareto front, the order, and the choice. Pure.

The figures of a point are the metrics of the workflow, in its order, and its size. The order of the metrics says what
matters most: of the points that meet all goals, the one with the best first metric is chosen; where two are equal in
it, the next metric decides, and at last the size. So a workflow that names size_on_disk first asks for the smallest
model that meets the goals of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quantization_api.manifest import TrialRecord
from quantization_api.metrics import Metric
from quantizer.evaluation.goals import Miss, missed_goal
from quantizer.evaluation.measurement import Measurement

Figures = tuple[float, ...]
"""Of one point; lower is better in each."""


@dataclass(frozen=True)
class Candidate:
    """A point that has ended."""

    record: TrialRecord
    measurements: Sequence[Measurement] = ()
    """By metric of the workflow; none where it did not finish."""


def figures(candidate: Candidate, metrics: Sequence[Metric]) -> Figures | None:
    """The figures of a point; None for one that did not finish."""
    record = candidate.record
    if record.state != "Finished" or record.size_bytes is None:
        return None
    pairs = zip(metrics, candidate.measurements, strict=True)
    found = [one.after if metric.lower_is_better else -one.after for metric, one in pairs]
    return (*found, float(record.size_bytes))


def dominates(one: Figures, other: Figures) -> bool:
    """Whether one is as good in all figures and better in one."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front(candidates: Sequence[Candidate], metrics: Sequence[Metric]) -> list[Candidate]:
    """The points that no other dominates, in their order."""
    known = _known(candidates, metrics)
    return [one for one, mine in known if not any(dominates(other, mine) for _, other in known)]


def missed(candidate: Candidate, metrics: Sequence[Metric]) -> list[Miss]:
    """The goals that a finished point misses."""
    pairs = zip(metrics, candidate.measurements, strict=True)
    return [miss for metric, one in pairs if (miss := missed_goal(metric, one)) is not None]


def ranked(candidates: Sequence[Candidate], metrics: Sequence[Metric]) -> list[Candidate]:
    """The finished points, best first: those that meet more goals, then by their figures."""
    known = _known(candidates, metrics)
    # Of equal points the first of the search wins: workers, which know them in any order, keep the same model.
    known.sort(key=lambda pair: (len(missed(pair[0], metrics)), pair[1], pair[0].record.number))
    return [one for one, _ in known]


def best(
    candidates: Sequence[Candidate], metrics: Sequence[Metric], *, whatever_goals: bool = False
) -> Candidate | None:
    """The point to choose: the first in the order, if it meets all goals."""
    order = ranked(candidates, metrics)
    return order[0] if order and (whatever_goals or not missed(order[0], metrics)) else None


def _known(candidates: Sequence[Candidate], metrics: Sequence[Metric]) -> list[tuple[Candidate, Figures]]:
    return [(one, found) for one in candidates if (found := figures(one, metrics)) is not None]
