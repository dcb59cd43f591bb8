"""Whether float16, in which formats store scales, holds those of a weight."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError

SMALLEST_NORMAL = torch.finfo(torch.float16).smallest_normal
"""Below it a float16 has fewer than 11 significant bits, and one at 6e-8."""
DEAREST = 2.0
"""Scales may raise the square of the rounding error this many times."""
EXACT = 1e-6
"""A relative square of an error that is none, whatever it is compared with."""


def check_scales(
    name: str, weight: Tensor, scales: Tensor, rounded: Callable[[Tensor], Tensor], cure: str
) -> None:
    """Compares what rounding costs a weight with what it costs the same weight in the middle of float16's range.

    Rounding to nearest does not care for the size of a weight, so that a difference comes from the scales alone. A few
    tiny rows or groups beside others cost nothing and are no reason to refuse a linear.

    Args:
        name: of the linear, for the message.
        weight: rows [n, K] that are looked at.
        scales: of the whole linear; where one of them is in the range, nothing is computed.
        rounded: float32 rows [n, K] -> what a reader sees of them when they are rounded to nearest.
        cure: what to change where they are too small.

    Raises:
        QuantizationError: NumericalFailure when the scales raise the square of the error more than DEAREST times.
    """
    largest = float(weight.abs().max()) if weight.numel() else 0.0
    if largest == 0 or float(scales.max()) >= SMALLEST_NORMAL:
        return
    rows = weight.float()
    larger = torch.ldexp(rows, torch.tensor(-math.frexp(largest)[1]))
    ours, possible = _relative(rows, rounded(rows)), _relative(larger, rounded(larger))
    if ours > DEAREST * possible + EXACT:
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"the weights of {name} are too small (at most {largest:.1e}) for float16, in which scales are stored: "
            f"rounding changes them by {math.sqrt(ours):.0%} instead of {math.sqrt(possible):.0%}",
            cure,
        )


def _relative(weight: Tensor, seen: Tensor) -> float:
    """Square of the error over that of the weight; float64, since the squares of tiny numbers are none in float32."""
    exact = weight.double()
    return float((exact - seen.double()).square().sum() / exact.square().sum())
