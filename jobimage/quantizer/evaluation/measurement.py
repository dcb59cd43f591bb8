"""A metric of the input model and of the result, with what is needed to say how sure the figures are."""

import math
from dataclasses import dataclass, field

from quantization_api.failures import Category, QuantizationError
from quantization_api.status import MetricResult
from quantizer.evaluation.intervals import Interval, Numbers, Ratio, interval


@dataclass(frozen=True)
class Measurement:
    """What was measured. The resampled values of both are paired (see intervals)."""

    before: float | None
    """Of the input model; None: it was not measured."""
    after: float
    """Of the result."""
    resampled_before: Numbers | None = None
    resampled_after: Numbers | None = None
    """[resamples]; None: the figure is exact, or there is only one sequence."""
    ratios: tuple[Ratio, Ratio] | None = field(default=None, repr=False, compare=False)
    """What the two were made from, which is small enough to be kept; None: the figure is exact."""

    @classmethod
    def of(cls, before: Ratio, after: Ratio) -> "Measurement":
        """Figures over the same sequences."""
        return cls(before.value, after.value, before.resampled(), after.resampled(), (before, after))

    @property
    def interval(self) -> Interval | None:
        """Of the result's value."""
        return interval(self.resampled_after)

    def result(self, name: str) -> MetricResult:
        """As status and manifest have it.

        Raises:
            QuantizationError: NumericalFailure when it is not finite.
        """
        if not all(math.isfinite(value) for value in (self.before, self.after) if value is not None):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{name} is not finite: {self.before} of the input model, {self.after} of the result",
            )
        found = self.interval
        return MetricResult(
            name=name,
            input=self.before,
            output=self.after,
            low=found.low if found else None,
            high=found.high if found else None,
        )
