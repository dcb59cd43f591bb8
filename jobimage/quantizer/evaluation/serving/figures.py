"""From the times that a server took to the values of metrics: pure arithmetic."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from quantization_api.metrics import Metric
from quantization_api.speed import BATCH_SIZE, NEW_TOKENS, PROMPT_TOKENS

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Shape:
    """What a server is asked for."""

    prompt_tokens: int
    new_tokens: int
    batch_size: int

    @classmethod
    def of(cls, metric: Metric) -> "Shape":
        """What a metric is measured on. The prefill ends with the first new token."""
        new = 1 if metric.phase == "prefill" else metric.new_tokens or NEW_TOKENS
        return cls(metric.prompt_tokens or PROMPT_TOKENS, new, metric.batch_size or BATCH_SIZE)

    @property
    def length(self) -> int:
        """Tokens of a sequence at its end."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True)
class Timing:
    """What was seen of one shape, for each repeat."""

    first: Sequence[float]
    """Seconds to the first token of all prompts."""
    each: Sequence[float]
    """Seconds for each later token of a sequence."""
    peak_bytes: int
    """The most memory that the process had held until then."""


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % confidence interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


def figure(metric: Metric, timing: Timing) -> Figure:
    """Milliseconds of latency, tokens per second of throughput, or bytes of peak memory."""
    if metric.type == "peak_memory":
        return Figure(float(timing.peak_bytes))
    shape, prefill = Shape.of(metric), metric.phase == "prefill"
    seconds = timing.first if prefill else timing.each
    if metric.type == "latency":
        return median([1000 * one for one in seconds])
    tokens = shape.batch_size * (shape.prompt_tokens if prefill else 1)
    return median([tokens / one for one in seconds])


def median(values: Sequence[float]) -> Figure:
    """The median; its interval lies between two of the values, whatever their distribution is.

    Each value lies below the true median with a chance of one half, so how many do is binomial. With fewer
    than six values not even the least and the largest enclose it with enough confidence: then there is no interval.
    """
    ordered, count = sorted(values), len(values)
    outside = _values_outside(count)
    if outside is None:
        return Figure(statistics.median(ordered))
    return Figure(statistics.median(ordered), ordered[outside], ordered[count - 1 - outside])


def _values_outside(count: int) -> int | None:
    """How many of the values on each side the interval may leave out."""
    chance, outside = 0.0, None
    for left_out in range(count // 2):
        chance += math.comb(count, left_out) / 2**count
        if 2 * chance > 1 - CONFIDENCE:
            break
        outside = left_out
    return outside
