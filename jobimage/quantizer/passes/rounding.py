"""Replaces a weight by the rounded one, measures what that costs, and packs it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import LinearReport
from quantizer.algorithms.finite import all_finite
from quantizer.algorithms.hessian import weighted_square
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.algorithms.stored_scales import check_scales
from quantizer.formats.interface import WeightFormat

NUMBERS_AT_ONCE = (
    2**18
)  # of a weight that are replaced at a time: what is computed of them stays in the caches
MEASURED_ROWS = 256
WORSE_THAN_RTN = 1.02
"""A module may have this many times RTN's error before the run fails. Where inputs are nearly
uncorrelated there is nothing to gain, and the greedy order may lose a percent."""
LUCK = 2.0
"""Of few weights the error is a sum of few squares, and chance may favour RTN: so many times one by the root of their
number. From 10,000 weights on it is less than what WORSE_THAN_RTN allows."""
NAMED = 4  # linears that a message names at most


def measured_rows(outputs: int, device: torch.device) -> Tensor:
    """The rows of a linear [N, K] that errors are measured on: all of a narrow one, else evenly spaced ones.

    Rows are independent, and a measure takes three products as large as the solve's own; on a layer of a
    billion-parameter model measuring every row took a third of the time of the whole pass.
    """
    count = min(outputs, MEASURED_ROWS)
    return torch.arange(count, device=device) * outputs // count


@dataclass
class ErrorBaseline:
    """What a weight's error is compared with: Hessian-weighted squares of its measured rows, float64."""

    rows: Tensor
    """See measured_rows."""
    whole: Tensor
    """Of the weight itself."""
    rtn: Tensor
    """Of what RTN changes."""

    def divide_rows(self, divisor: Tensor) -> None:
        """The weight's rows were divided by divisor [N]: so are the outputs that the squares are of."""
        square = divisor[self.rows].double().square()
        self.whole, self.rtn = self.whole / square, self.rtn / square

    def relative(self, ours: Tensor) -> tuple[float, float]:
        """Relative errors of ours (measured rows) and of RTN; a weight that is zero is exact."""
        whole = float(self.whole.sum())
        return (float(ours.sum()) / whole, float(self.rtn.sum()) / whole) if whole > 0 else (0.0, 0.0)


def error_baseline(
    weight: Tensor, hessian: Tensor, rtn: Callable[[Tensor], QuantizedWeight], layout: WeightFormat
) -> ErrorBaseline:
    """What a pass has to beat for a weight [N, K] whose inputs have the Hessian [K, K].

    rtn: of some rows [n, K] float32, on the pass's own grid.
    """
    rows = measured_rows(weight.shape[0], weight.device)
    original = weight[rows].float()
    changed = original - layout.as_read(rtn(original)).float()
    return ErrorBaseline(rows, weighted_square(original, hessian), weighted_square(changed, hessian))


def put_quantized(
    name: str,
    linear: nn.Linear,
    weight: Tensor,
    quantized: QuantizedWeight,
    hessian: Tensor,
    layout: WeightFormat,
) -> Tensor:
    """Puts what a reader will see of `weight` [N, K] into a linear; the weighted squares of the measured rows' change.

    Raises:
        QuantizationError: NumericalFailure when a weight does not fit the reader's arithmetic.
    """
    measured = measured_rows(weight.shape[0], weight.device)
    changed = weight[measured].float()
    at_once = max(1, NUMBERS_AT_ONCE // weight.shape[1])
    for first in range(0, weight.shape[0], at_once):
        rows = slice(first, first + at_once)
        seen = layout.as_read(quantized.rows(rows))
        if not all_finite(seen):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{name}: a weight is too large for float16, in which readers compute",
            )
        linear.weight[rows] = seen.to(linear.weight.dtype)
        here = (measured >= first) & (measured < first + at_once)
        changed[here] -= seen[measured[here] - first].float()
    return weighted_square(changed, hessian)


def check_stored_scales(
    name: str,
    weight: Tensor,
    quantized: QuantizedWeight,
    rtn: Callable[[Tensor], QuantizedWeight],
    layout: WeightFormat,
    cure: str,
) -> None:
    """check_scales on the measured rows of a weight [N, K] that was rounded; rtn as for error_baseline."""
    rows = weight[measured_rows(weight.shape[0], weight.device)]
    check_scales(name, rows, quantized.scales, lambda part: layout.as_read(rtn(part)), cure)


def pack_linear(name: str, quantized: QuantizedWeight, layout: WeightFormat) -> dict[str, Tensor]:
    """The tensors of a quantized linear by their full names, on the CPU."""
    return {f"{name}.{kind}": tensor.cpu() for kind, tensor in layout.pack(quantized).items()}


def check_quality(reports: Sequence[LinearReport], advice: str) -> None:
    """Raises NumericalFailure for modules whose error is not finite, or together worse than RTN's.

    reports: of linears that were solved together; none where all were left out. advice: what to change then.
    """
    for report in reports:
        if not (math.isfinite(report.error) and math.isfinite(report.error_rtn)):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"{report.name}: the error is not finite ({report.error})"
            )
    ours, rtn = (sum(report.error for report in reports), sum(report.error_rtn for report in reports))
    weights = sum(min(report.shape[0], MEASURED_ROWS) * report.shape[1] for report in reports)
    if reports and ours > rtn * max(WORSE_THAN_RTN, 1 + LUCK / math.sqrt(weights)) + 1e-12:
        names = [report.name for report in reports]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"{', '.join(names[:NAMED])}{more}: the relative error {ours:.3e} is worse than "
            f"that of RTN (round to nearest), {rtn:.3e}",
            advice,
        )
