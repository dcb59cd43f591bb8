"""How a run goes, in lines: for a pod's log, and for a command line that is not a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from quantization_api.manifest import LinearReport
from quantization_api.status import Progress


@dataclass(frozen=True)
class Line:
    """Something to say."""

    text: str
    notable: bool = False
    """A progress bar does not show it."""


@dataclass(frozen=True)
class Errors:
    """The error of a layer and that of RTN, each the mean over its linears; see manifest.LinearReport."""

    error: float
    rtn: float

    @classmethod
    def of(cls, linears: Sequence[LinearReport]) -> "Errors | None":
        """None where no linear was rounded."""
        if not linears:
            return None
        count = len(linears)
        return cls(
            sum(each.error for each in linears) / count, sum(each.error_rtn for each in linears) / count
        )


def stage_line(stage: str) -> Line:
    """A stage begins."""
    return Line(f"{stage}: begins")


def layer_line(now: Progress, seconds: float, errors: Errors | None, whole: str) -> Line:
    """A layer is done. whole: what the percentage is of."""
    error = f", mean error {errors.error:.2e} (RTN {errors.rtn:.2e})" if errors else ""
    return Line(
        f"{now.stage}: layer {now.layer} of {now.layers} in {duration(seconds)}{error}; {_far(now, whole)}"
    )


def still_line(now: Progress, whole: str) -> Line:
    """Nothing else was to be said for a while. whole: what the percentage is of."""
    return Line(f"{now.stage}: {_far(now, whole)}")


def going_on_line(kept: int, layers: int) -> Line:
    """A run begins that takes over what an earlier one left."""
    return Line(
        f"{kept} of {layers} layers were finished by an earlier run; going on after them", notable=True
    )


def duration(seconds: float) -> str:
    """A time for people: 0.4 s, 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _far(now: Progress, whole: str) -> str:
    left = f", about {duration(now.eta_seconds)} left" if now.eta_seconds else ""
    return f"{now.percent} % of the {whole}{left}"
