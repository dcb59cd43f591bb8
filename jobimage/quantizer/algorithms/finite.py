"""Whether numbers are finite, and survive another data type: the checks before anything is computed or stored."""

import torch
from torch import Tensor

MOST_CHANGED = 0.01
"""Share of a matrix that another type may change: bfloat16, of eight bits, changes one by 0.002."""


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    One NaN or infinity makes the sum NaN or infinite, so a finite sum answers in one pass without a temporary;
    the rare sum that overflows by itself is looked at element by element.
    """
    if not tensor.is_floating_point():
        return True
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return bool(torch.isfinite(tensor.sum(dtype=wide))) or bool(torch.isfinite(tensor).all())


def is_lost(before: Tensor, after: Tensor) -> bool:
    """Whether a matrix is too small for its new type: all of it below the type's range, and changed considerably.

    Never a vector: biases without effect, such as those of keys, are noise of any size.
    """
    if before.ndim < 2 or before.dtype == after.dtype or not before.numel():
        return False
    largest = before.abs().max()
    if largest == 0 or largest >= torch.finfo(after.dtype).smallest_normal:
        return False
    exact = before.double()
    changed = (exact - after.double()).square().sum() / exact.square().sum()
    return float(changed) > MOST_CHANGED**2
