"""QuaRot's rounding of weights: nearest or GPTQ, refitted scales, and scales of few bits.

Without gptq_opt_scales and with 16-bit scales, w_gptq is exactly algorithms.gptq.solver. The other two fix every
grid before the first column (as static groups do) and then solve on it:

* gptq_opt_scales: each group's range is shrunk by the factor, of a few, with the least squared error of
  RTN, columns weighted with the diagonal of H; afterwards the scales are fitted to the integers that
  were found (algorithms.gptq.scale_refit).
* s_bits below 16: scale = code * unit with a code of s_bits bits, 1 to 2^s_bits - 1, and one float32
  unit for a linear. Weights are rounded on the scale that a reader will compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.feedback import BLOCK, ErrorFeedback, factor_hessian, row_parts
from quantizer.algorithms.gptq.scale_refit import refit_scales
from quantizer.algorithms.gptq.solver import gptq
from quantizer.algorithms.grid import GridRule, fit_grid, round_to_grid
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx
from quantizer.kernels.column_block import round_columns

SHRINK = tuple(1.0 - 0.02 * step for step in range(31))  # 1.00 to 0.40
REFIT_TURNS = 4


@dataclass(frozen=True)
class WeightRule:
    """How weights are rounded."""

    method: str
    """rtn or gptq."""
    bits: int
    asym: bool = False
    """Whether grids have zero points."""
    group_size: int = -1
    """Input channels that share a scale; -1: all of a row."""
    damping: float = 0.01
    """Of gptq."""
    refine: bool = False
    """Whether gptq refines what it rounds; see GptqConfig."""
    opt_scales: bool = False
    """Whether gptq searches for its scales and fits them again."""
    scale_bits: int = 16
    """16: float16; below: codes and one unit."""

    @property
    def grid(self) -> GridRule:
        """The grid of a group; scales are float16 as stored, or exact until they get their codes."""
        if self.scale_bits == 16:
            return GridRule(self.bits, not self.asym, torch.float16)
        return GridRule(self.bits, not self.asym, torch.float32, torch.finfo(torch.float32).smallest_normal)


def round_weights(
    parts: Sequence[Tensor], hessian: Tensor | None, rule: WeightRule
) -> tuple[list[QuantizedWeight], float]:
    """Rounds linears [N, K] that share their input.

    Args:
        parts: weights; rows are independent, so gptq solves them stacked.
        hessian: H [K, K] of the input, needed by gptq.
        rule: group_size must divide K.

    Returns:
        The quantized weights, scales float32 as a reader will see them; and the damping that was used, 0 without gptq.

    Raises:
        QuantizationError: NumericalFailure when H cannot be factored.
    """
    stacked = torch.cat([part.float() for part in parts])
    if rule.method == "gptq" and not rule.opt_scales and rule.scale_bits == 16:
        assert hessian is not None
        whole, damp_percent = gptq(stacked, hessian, _gptq_config(rule))
        return _split(whole, parts), damp_percent
    columns = stacked.shape[1]
    width = columns if rule.group_size == -1 else rule.group_size
    g_idx = natural_g_idx(columns, columns // width, stacked.device)
    importance = hessian.diagonal() if hessian is not None and rule.opt_scales else None
    scales, zeros = _fit(stacked, width, rule.grid, importance)
    if rule.scale_bits < 16:
        scales = torch.cat([_coded(own, rule.scale_bits) for own in scales.split([len(p) for p in parts])])
    damp_percent = 0.0
    if rule.method == "gptq":
        assert hessian is not None
        integers, damp_percent = gptq_on_grid(stacked, hessian, scales, zeros, g_idx, rule)
        if rule.opt_scales and rule.scale_bits == 16:
            before = QuantizedWeight(integers, scales, zeros, g_idx)
            refitted = refit_scales(stacked, hessian, before, damp_percent, REFIT_TURNS)
            scales = refitted.scales.half().float()
    else:
        index = g_idx.long()
        integers = round_to_grid(stacked, scales[:, index], zeros[:, index], rule.grid.maxq).to(torch.uint8)
    return _split(QuantizedWeight(integers, scales, zeros, g_idx), parts), damp_percent


def nearest(weight: Tensor, rule: WeightRule) -> QuantizedWeight:
    """RTN of one linear [N, K] on the rule's grid, scales of few bits included."""
    return round_weights([weight], None, replace(rule, method="rtn"))[0][0]


def _gptq_config(rule: WeightRule) -> GptqConfig:
    return GptqConfig(
        bits=rule.bits,
        group_size=rule.group_size,
        damp_percent=rule.damping,
        sym=not rule.asym,
        refine=rule.refine,
        scale_dtype=torch.float16,
    )


def _coded(scales: Tensor, bits: int) -> Tensor:
    """The scales [N, G] of one linear as codes of `bits` bits times one unit; the largest has the largest code."""
    most = 2**bits - 1
    unit = float((scales.amax() / most).float())
    codes = torch.ceil(scales / unit - 1e-4).clamp_(1, most)  # up: a smaller scale would clip its largest
    return codes * unit


def _split(whole: QuantizedWeight, parts: Sequence[Tensor]) -> list[QuantizedWeight]:
    ends = list(accumulate(len(part) for part in parts))
    return [whole.rows(slice(end - len(part), end)) for part, end in zip(parts, ends, strict=True)]


def _fit(weight: Tensor, width: int, grid: GridRule, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scales and zeros [N, G]; with importance [K] (None: the whole range) of the best shrunk range."""
    groups = weight.view(len(weight), -1, width)
    low, high = groups.amin(-1), groups.amax(-1)
    scale, zero = fit_grid(low, high, grid)
    if importance is None:
        return scale, zero
    weights = importance.view(1, -1, width)
    best = torch.full_like(scale, torch.inf)
    for factor in SHRINK:
        tried, centre = fit_grid(low * factor, high * factor, grid)
        step, offset = tried.unsqueeze(-1), centre.unsqueeze(-1)
        read = (round_to_grid(groups, step, offset, grid.maxq) - offset) * step
        error = ((read - groups).square_() * weights).sum(-1)
        better = error < best
        best, scale, zero = (
            torch.where(better, error, best),
            torch.where(better, tried, scale),
            torch.where(better, centre, zero),
        )
    return scale, zero


def gptq_on_grid(
    weight: Tensor, hessian: Tensor, scales: Tensor, zeros: Tensor, g_idx: Tensor, rule: WeightRule
) -> tuple[Tensor, float]:
    """GPTQ (see algorithms.gptq.solver) on grids that are given: integers [N, K] uint8 and the damping."""
    dead = hessian.diagonal() == 0
    order = torch.arange(weight.shape[1], device=weight.device)
    factor, damp_percent = factor_hessian(hessian, order, rule.damping)
    solved = []
    for part in row_parts(weight):
        columns = weight[part].t().float().clone()
        columns[dead] = 0.0
        integers = torch.empty(columns.shape, dtype=torch.uint8, device=weight.device)
        steps, centres = scales[part].t().contiguous(), zeros[part].t().contiguous()
        feedback = ErrorFeedback(columns, factor)
        for start in range(0, len(columns), BLOCK):
            block = slice(start, min(start + BLOCK, len(columns)))
            seen, own = feedback.block(block.start, block.stop)
            groups = g_idx[block]
            integers[block], _ = round_columns(seen, own, steps, centres, groups, rule.grid.maxq)
            read = (integers[block].float() - centres[groups]) * steps[groups]
            feedback.finish(block.start, block.stop, read)
        solved.append(integers.t())
    return torch.cat(solved), damp_percent
