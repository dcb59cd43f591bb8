"""What is measured, as values: pure arithmetic over times and samples."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Latency:
    """Times between two moments of each object, in seconds. missing: objects that never reached the second."""

    count: int
    missing: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Point:
    """One load of the picture: the rate that was asked for, the rate of Jobs that came, and how late they were."""

    rate: float
    job_rate: float
    to_job: Latency
    to_status: Latency


@dataclass(frozen=True, slots=True)
class Slice:
    """Some seconds of a run: when they began, what was sent and what ended in them, and how late that became.

    to_job: of what was sent then. to_status: of what ended then. waiting: objects whose Job had not ended at its end.
    cpu: shares of a core, by process.
    """

    begins: float
    to_job: Latency
    to_status: Latency
    waiting: int
    cpu: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report.

    bar: what it must be, "" when it is there for comparison. met: whether it is, None when that is not judged.
    too_small: why it is not: the bar is meant for more than there was.
    """

    name: str
    measured: str
    bar: str = ""
    met: bool | None = None
    too_small: str = ""

    @property
    def verdict(self) -> str:
        """For the page."""
        if self.too_small:
            return f"not judged: {self.too_small}"
        return {None: "", True: "yes", False: "**no**"}[self.met]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def latency(begun: Mapping[str, float], done: Mapping[str, float]) -> Latency:
    """From one moment to the other, for all objects that had the first."""
    times = [done[name] - moment for name, moment in begun.items() if name in done]
    return Latency(len(times), len(begun) - len(times), percentile(times, 0.5), percentile(times, 0.99))


def rate(moments: Iterable[float]) -> float:
    """How many a second from the first to the last; NaN of fewer than two."""
    ordered = sorted(moments)
    if len(ordered) < 2 or ordered[-1] == ordered[0]:
        return math.nan
    return (len(ordered) - 1) / (ordered[-1] - ordered[0])


def slices(
    sent: Mapping[str, float],
    made: Mapping[str, float],
    ended: Mapping[str, float],
    told: Mapping[str, float],
    shares: Sequence[tuple[float, Mapping[str, float]]],
) -> list[Slice]:
    """A run as a series: a slice for each sample of the processes' shares; times count from the first that was sent."""
    begun = min(sent.values(), default=0.0)
    result, last = [], begun
    for now, cpu in shares:
        then = {name: moment for name, moment in sent.items() if last <= moment < now}
        over = {name: moment for name, moment in ended.items() if last <= moment < now}
        waiting = sum(moment < now for moment in sent.values()) - sum(
            moment < now for moment in ended.values()
        )
        result.append(Slice(last - begun, latency(then, made), latency(over, told), waiting, cpu))
        last = now
    return result


def growth(samples: Sequence[tuple[float, int, float]]) -> float:
    """How much memory grew from the second quarter of a run to the last, in MB: medians, so that no peak decides."""
    quarter = len(samples) // 4
    if quarter == 0:
        return math.nan
    memory = [sample[2] for sample in samples]
    return percentile(memory[-quarter:], 0.5) - percentile(memory[quarter : 2 * quarter], 0.5)


def at_most(name: str, value: float, limit: float, unit: str) -> Figure:
    """A figure that must not exceed its bar; one that is not a number does not meet it."""
    return Figure(name, f"{value:.3g} {unit}".rstrip(), f"at most {limit:g} {unit}".rstrip(), value <= limit)


def at_least(name: str, value: float, limit: float, unit: str) -> Figure:
    """A figure that must reach its bar."""
    return Figure(name, f"{value:.3g} {unit}", f"at least {limit:g} {unit}", value >= limit)


def meant_for(figure: Figure, *sizes: tuple[float, float, str]) -> Figure:
    """A figure whose bar is meant for a size. Met with less, it says nothing; missed with less, it is missed.

    sizes: what there was, what the bar is meant for, and the unit.
    """
    short = [f"{was:,g} of {wanted:,g} {unit}" for was, wanted, unit in sizes if was < wanted]
    return replace(figure, met=None, too_small=", ".join(short)) if figure.met and short else figure
