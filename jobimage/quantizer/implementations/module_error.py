"""The Hessian-weighted error of a rounded linear beside plain rounding's: pure."""

import torch
from torch import Tensor

from quantizer.algorithms.grid import GridRule, dequantize, round_to_nearest
from quantizer.algorithms.hessian import weighted_square


def nearest(weight: Tensor, group_size: int, rule: GridRule) -> Tensor:
    """A weight [N, K] rounded to nearest on a plain grid, as a reader sees it (float16 arithmetic)."""
    width = weight.shape[1] if group_size == -1 else group_size
    integers, scales, zeros = round_to_nearest(weight, width, rule)
    group_of = torch.arange(weight.shape[1], device=weight.device) // width
    return dequantize(integers, scales.half(), zeros, group_of).half().float()


def relative_error(weight: Tensor, seen: Tensor, hessian: Tensor) -> float:
    """tr(E H E') / tr(W H W') with E = weight - seen, all [N, K]; 0 for a weight that is zero everywhere."""
    whole = float(weighted_square(weight, hessian).sum())
    return float(weighted_square(weight - seen, hessian).sum()) / whole if whole > 0 else 0.0
