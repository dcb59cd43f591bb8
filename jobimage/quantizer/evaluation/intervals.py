"""95 % confidence intervals by bootstrap: a figure over sequences is computed again over sequences drawn from them.

Two figures that are drawn with the same seed over the same sequences are paired: each resample is of the same
sequences for both, so what both find hard does not widen the interval of their difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

RESAMPLES = 4000
"""The ends of an interval vary by about 1 % of its width from seed to seed."""
SEED = 20
MOST_UNITS = 1024
"""Units that are drawn; of more sequences, neighbours are drawn together."""
ENDS = (2.5, 97.5)
"""Percentiles."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """A figure that is a function of sums over sequences: finish(sum of above / sum of below)."""

    above: Numbers
    below: Numbers
    """[sequences], both."""
    finish: Callable[[Any], Any] = lambda value: value
    """numpy's, from numbers to numbers."""

    @property
    def value(self) -> float:
        """Over all sequences, each once."""
        return float(self.finish(self.above.sum() / self.below.sum()))

    def resampled(self, seed: int = SEED) -> Numbers | None:
        """[RESAMPLES] values; None for fewer than two sequences, which say nothing of what others would give."""
        if len(self.above) < 2:
            return None
        above, below = _units(self.above), _units(self.below)
        drawn = _draws(len(above), seed)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            values: Numbers = self.finish((drawn @ above) / (drawn @ below))
        return values


def interval(values: Numbers | None) -> Interval | None:
    """Of resampled values; None where there are none: a resample of sequences without a token has no value."""
    if values is None or not (finite := np.isfinite(values)).any():
        return None
    low, high = np.percentile(values[finite], ENDS)
    return Interval(float(low), float(high))


def _units(values: Numbers) -> Numbers:
    """Sums over neighbours, as many as there may be."""
    if len(values) <= MOST_UNITS:
        return values
    return np.array([part.sum() for part in np.array_split(values, MOST_UNITS)])


def _draws(units: int, seed: int) -> Numbers:
    """How often each unit is drawn: [RESAMPLES, units]."""
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), RESAMPLES)
    return drawn.astype(np.float64)
