"""QuaRot's rounding of weights: nearest or GPTQ, refitted scales, and scales of few bits.

Without gptq_opt_scales and with 16-bit scales, w_gptq is exactly algorithms.gptq.solver. The other two fix every
grid before the first column (as static groups do) and then solve on it:

* gptq_opt_scales: each group's range is shrunk by the factor, of a few, with the least squared error of
  plain rounding, columns weighted with the diagonal of H; afterwards the scales are fitted to the integers that
  were found (algorithms.gptq.scale_refit).
* s_bits below 16: scale = code * unit with a code of s_bits bits, 1 to 2^s_bits - 1, and one float32
  unit for a linear. Weights are rounded on the scale that a reader will compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizer.algorithms.gptq.feedback import BLOCK, ErrorFeedback, factor_hessian, row_parts
from quantizer.algorithms.gptq.scale_refit import refit_scales
from quantizer.algorithms.gptq.solver import GptqConfig, gptq
from quantizer.algorithms.grid import GridRule, dequantize, fit_grid, round_to_grid
from quantizer.algorithms.quantized_weight import Rounded
from quantizer.kernels.column_block import round_columns

SHRINK = tuple(1.0 - 0.02 * step for step in range(31))  # 1.00 to 0.40
REFIT_TURNS = 4


@dataclass(frozen=True)
class WeightRule:
    """How weights are rounded.

    method: rtn or gptq. bits: of a weight. asym: with zero points. group_size: input channels that share
    a scale, -1 is a row. damping, opt_scales: of gptq. scale_bits: 16 is float16.
    """

    method: str
    bits: int
    asym: bool = False
    group_size: int = -1
    damping: float = 0.01
    opt_scales: bool = False
    scale_bits: int = 16

    @property
    def grid(self) -> GridRule:
        """The grid of a group; scales are float16 as stored, or exact until they get their codes."""
        return GridRule(self.bits, not self.asym, torch.float16 if self.scale_bits == 16 else torch.float32)


@dataclass(frozen=True)
class RoundedWeight:
    """A rounded weight [N, K].

    integers [N, K] uint8; scales, zeros [N, G] float32, scales as a reader will see them; group_of [K];
    scale_codes [N, G] uint8 and scale_unit where scales have fewer than 16 bits; damp_percent as used.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    group_of: Tensor
    scale_codes: Tensor | None = None
    scale_unit: float = 0.0
    damp_percent: float = 0.0

    @property
    def grid(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Integers, scales, zeros and the group of each column, as the formats take them."""
        return self.integers, self.scales, self.zeros, self.group_of

    def weight(self) -> Tensor:
        """The weight [N, K] float32 that a reader computes."""
        return dequantize(*self.grid)


def round_weights(parts: Sequence[Tensor], hessian: Tensor | None, rule: WeightRule) -> list[RoundedWeight]:
    """Rounds linears [N, K] that share their input.

    Args:
        parts: weights; rows are independent, so gptq solves them stacked.
        hessian: H [K, K] of the input, needed by gptq.
        rule: group_size must divide K.

    Raises:
        QuantizationError: NumericalFailure when H cannot be factored.
    """
    stacked = torch.cat([part.float() for part in parts])
    if rule.method == "gptq" and not rule.opt_scales and rule.scale_bits == 16:
        assert hessian is not None
        solved = gptq(stacked, hessian, _gptq_config(rule))
        whole = RoundedWeight(
            solved.integers, solved.scales, solved.zeros, solved.group_of, damp_percent=solved.damp_percent
        )
        return _split(whole, parts, [None] * len(parts))
    width = stacked.shape[1] if rule.group_size == -1 else rule.group_size
    group_of = (torch.arange(stacked.shape[1], device=stacked.device) // width).to(torch.int32)
    importance = hessian.diagonal() if hessian is not None and rule.opt_scales else None
    scales, zeros = _fit(stacked, width, rule.grid, importance)
    units = [_Codes.make(piece, rule) for piece in scales.split([len(part) for part in parts])]
    scales = torch.cat([unit.scales for unit in units])
    damp_percent = 0.0
    if rule.method == "gptq":
        assert hessian is not None
        integers, damp_percent = gptq_on_grid(stacked, hessian, scales, zeros, group_of, rule)
        if rule.opt_scales and rule.scale_bits == 16:
            before = Rounded(integers, scales, zeros, group_of, damp_percent)
            scales = refit_scales(stacked, hessian, before, REFIT_TURNS).scales.half().float()
    else:
        index = group_of.long()
        integers = round_to_grid(stacked, scales[:, index], zeros[:, index], rule.grid.maxq).to(torch.uint8)
    whole = RoundedWeight(integers, scales, zeros, group_of, damp_percent=damp_percent)
    return _split(whole, parts, units if rule.scale_bits < 16 else [None] * len(parts))


def _gptq_config(rule: WeightRule) -> GptqConfig:
    return GptqConfig(
        bits=rule.bits,
        group_size=rule.group_size,
        damp_percent=rule.damping,
        sym=not rule.asym,
        scale_dtype=torch.float16,
    )


@dataclass(frozen=True)
class _Codes:
    """Scales of one linear as codes times a unit."""

    scales: Tensor
    codes: Tensor
    unit: float

    @classmethod
    def make(cls, scales: Tensor, rule: WeightRule) -> "_Codes":
        if rule.scale_bits == 16:
            return cls(scales, torch.empty(0), 0.0)
        most = 2**rule.scale_bits - 1
        unit = float((scales.amax() / most).float())
        codes = torch.ceil(scales / unit - 1e-4).clamp_(1, most)  # up: a smaller scale would clip its largest
        return cls(codes * unit, codes.to(torch.uint8), unit)


def _split(
    whole: RoundedWeight, parts: Sequence[Tensor], codes: Sequence[_Codes | None]
) -> list[RoundedWeight]:
    result, start = [], 0
    for part, code in zip(parts, codes, strict=True):
        rows = slice(start, start := start + len(part))
        result.append(
            RoundedWeight(
                whole.integers[rows],
                whole.scales[rows],
                whole.zeros[rows],
                whole.group_of,
                code.codes if code else None,
                code.unit if code else 0.0,
                whole.damp_percent,
            )
        )
    return result


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
    weight: Tensor, hessian: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor, rule: WeightRule
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
            groups = group_of[block]
            integers[block], _ = round_columns(seen, own, steps, centres, groups, rule.grid.maxq)
            read = (integers[block].float() - centres[groups]) * steps[groups]
            feedback.finish(block.start, block.stop, read)
        solved.append(integers.t())
    return torch.cat(solved), damp_percent
