"""The Hessian-weighted error of a rounded linear beside RTN's: pure."""

from torch import Tensor

from quantizer.algorithms.grid import GridRule, dequantize
from quantizer.algorithms.hessian import weighted_square
from quantizer.algorithms.quantized_weight import round_to_nearest


def rtn_weight(weight: Tensor, group_size: int, rule: GridRule) -> Tensor:
    """A weight [N, K] after RTN on a plain grid, as a reader sees it (float16 arithmetic)."""
    rtn = round_to_nearest(weight, group_size, rule)
    return dequantize(rtn.integers, rtn.scales.half(), rtn.zeros, rtn.g_idx).half().float()


def relative_error(weight: Tensor, seen: Tensor, hessian: Tensor) -> float:
    """tr(E H E') / tr(W H W') with E = weight - seen, all [N, K]; 0 for a weight that is zero everywhere."""
    whole = float(weighted_square(weight, hessian).sum())
    return float(weighted_square(weight - seen, hessian).sum()) / whole if whole > 0 else 0.0
