"""What a sampler is told of points that were chosen before."""

from dataclasses import dataclass

from quantizer.search.space import Parameters


@dataclass(frozen=True)
class Known:
    """A point that was chosen before."""

    parameters: Parameters
    values: tuple[float, ...] | None = None
    """What is minimized; None where it did not finish."""
    ended: bool = False
    """False: it is being computed."""
