"""When a run will end: a pure estimate from what its stages have taken.

Two things are known of a stage: its planned work (see workload) and, once it moves, its own speed. Speeds differ
between stages and machines, so a stage that runs is judged by itself as soon as it has moved a little, and the
stages to come by all that was seen so far. Between two advances the time simply runs down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PRIOR = 0.03
"""So much of a stage, in the planned time, is mixed to what was measured of it: the first steps are noisy."""


@dataclass(frozen=True)
class Finished:
    """A stage that is done."""

    weight: float
    """Its planned work."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True)
class Current:
    """The stage that runs."""

    weight: float
    """Its planned work."""
    fraction: float
    """Of its work that is done."""
    advanced: float
    """Seconds from its beginning until that was done."""
    elapsed: float
    """Seconds from its beginning until now."""
    fixed: float = 0.0
    """Seconds that it takes beside its work."""


def seconds_left(
    finished: Sequence[Finished], current: Current | None, to_come: float, fixed: float = 0.0
) -> float | None:
    """Seconds to the end of the run; None while nothing was measured.

    Args:
        finished: planned stages that are done.
        current: the planned stage that runs, if one does.
        to_come, fixed: planned work of the stages after it, and the seconds that they take beside it.
    """
    weight = sum(stage.weight for stage in finished)
    seconds = sum(stage.seconds for stage in finished)
    left = 0.0
    if current is not None:
        total = _stage_seconds(current, seconds / weight if weight > 0 else None)
        if total is None:
            return None
        total = max(total, current.elapsed)
        left = total - current.elapsed
        weight, seconds = weight + current.weight, seconds + total
    if weight <= 0:
        return None
    return left + fixed + to_come * seconds / weight


def _stage_seconds(stage: Current, second_for_unit: float | None) -> float | None:
    """How long the whole stage takes: as planned, and more and more as measured."""
    if second_for_unit is None:
        return stage.advanced / stage.fraction if stage.fraction > 0 else None
    planned = stage.weight * second_for_unit + stage.fixed
    prior = PRIOR * (1 - stage.fraction)
    return (stage.advanced + prior * planned) / (stage.fraction + prior)
