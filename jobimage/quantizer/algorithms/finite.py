"""Whether numbers are finite: the check before anything is computed or stored."""

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    One NaN or infinity makes the sum NaN or infinite, so a finite sum answers in one pass without a temporary;
    the rare sum that overflows by itself is looked at element by element.
    """
    if not tensor.is_floating_point():
        return True
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return bool(torch.isfinite(tensor.sum(dtype=wide))) or bool(torch.isfinite(tensor).all())
