"""Puts a rounded weight in the place of the real one, measures what that costs, and packs it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite
from quantizer.algorithms.grid import GroupedGrid, round_to_nearest
from quantizer.algorithms.hessian import weighted_square
from quantizer.formats.interface import WeightFormat, natural_groups
from quantizer.passes.interface import ModuleReport, Rounded

NUMBERS_AT_ONCE = (
    2**18
)  # of a weight that are replaced at a time: what is computed of them stays in the caches
MEASURED_ROWS = 256
WORSE_THAN_RTN = 1.02
"""A module may have this many times plain rounding's error before the run fails. Where inputs are nearly
uncorrelated there is nothing to gain, and the greedy order may lose a percent."""
NAMED = 4  # linears that a message names


def measured_rows(outputs: int, device: torch.device) -> Tensor:
    """The rows of a linear [N, K] that errors are measured on: all of a narrow one, else evenly spaced ones.

    Rows are independent, and a measure takes three products as large as the solve's own; on a layer of a
    billion-parameter model measuring every row took a third of the time of the whole pass.
    """
    count = min(outputs, MEASURED_ROWS)
    return torch.arange(count, device=device) * outputs // count


@dataclass
class Yardstick:
    """Hessian-weighted squares of the measured rows, float64: of a weight, and of what plain rounding changes.

    rows: see measured_rows.
    """

    rows: Tensor
    whole: Tensor
    nearest: Tensor

    def divide_rows(self, divisor: Tensor) -> None:
        """The weight's rows were divided by divisor [N]: so are the outputs that the squares are of."""
        square = divisor[self.rows].double().square()
        self.whole, self.nearest = self.whole / square, self.nearest / square

    def relative(self, ours: Tensor) -> tuple[float, float]:
        """Relative errors of ours (measured rows) and of plain rounding; a weight that is zero is exact."""
        whole = float(self.whole.sum())
        return (float(ours.sum()) / whole, float(self.nearest.sum()) / whole) if whole > 0 else (0.0, 0.0)


def plain_rounding(
    weight: Tensor, hessian: Tensor, nearest: Callable[[Tensor], Rounded], layout: WeightFormat
) -> Yardstick:
    """What a pass has to beat for a weight [N, K] whose inputs have the Hessian [K, K].

    nearest: rounds some rows [n, K] float32 plainly, on the pass's own grid.
    """
    rows = measured_rows(weight.shape[0], weight.device)
    original = weight[rows].float()
    changed = original - layout.as_read(*nearest(original)).float()
    return Yardstick(rows, weighted_square(original, hessian), weighted_square(changed, hessian))


def on_grid(grid: GroupedGrid) -> Callable[[Tensor], Rounded]:
    """Plain rounding on a grid, groups as they lie."""

    def nearest(rows: Tensor) -> Rounded:
        columns = rows.shape[1]
        natural = natural_groups(columns, grid.groups(columns), rows.device)
        return (*round_to_nearest(rows, grid.width(columns), grid.rule), natural)

    return nearest


def put_rounded(
    name: str, linear: nn.Linear, weight: Tensor, rounded: Rounded, hessian: Tensor, layout: WeightFormat
) -> Tensor:
    """Puts what a reader will see of `weight` [N, K] into a linear; the weighted squares of the measured rows' change.

    Raises:
        QuantizationError: NumericalFailure when a weight does not fit the reader's arithmetic.
    """
    integers, scales, zeros, group_of = rounded
    measured = measured_rows(weight.shape[0], weight.device)
    changed = weight[measured].float()
    at_once = max(1, NUMBERS_AT_ONCE // weight.shape[1])
    for first in range(0, weight.shape[0], at_once):
        rows = slice(first, first + at_once)
        seen = layout.as_read(integers[rows], scales[rows], zeros[rows], group_of)
        if not all_finite(seen):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{name}: a weight is too large for float16, which readers compute in",
            )
        linear.weight[rows] = seen.to(linear.weight.dtype)
        here = (measured >= first) & (measured < first + at_once)
        changed[here] -= seen[measured[here] - first].float()
    return weighted_square(changed, hessian)


def pack_linear(name: str, rounded: Rounded, layout: WeightFormat) -> dict[str, Tensor]:
    """The tensors of a rounded linear by their full names, on the CPU."""
    return {f"{name}.{kind}": tensor.cpu() for kind, tensor in layout.pack(*rounded).items()}


def check_quality(reports: Sequence[ModuleReport], advice: str) -> None:
    """Raises NumericalFailure for modules whose error is not finite, or together worse than plain rounding's.

    reports: of linears that were solved together. advice: what to change then.
    """
    for report in reports:
        if not (math.isfinite(report.error) and math.isfinite(report.error_rtn)):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"{report.name}: the error is not finite ({report.error})"
            )
    ours, nearest = (sum(getattr(report, name) for report in reports) for name in ("error", "error_rtn"))
    if ours > nearest * WORSE_THAN_RTN + 1e-12:
        names = [report.name for report in reports]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"{', '.join(names[:NAMED])}{more}: the relative error {ours:.3e} is worse than "
            f"plain rounding's {nearest:.3e}",
            advice,
        )
