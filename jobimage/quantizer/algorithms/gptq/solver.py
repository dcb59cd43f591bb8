"""GPTQ (Frantar et al., arXiv 2210.17323): rounding with error feedback, on (weight, Hessian), free of I/O.

Columns are rounded in blocks of 128, a block by kernels.column_block; what it takes over from the blocks before
comes from feedback, which describes the algorithm.

Rows are independent, so linears that share an input are stacked and solved at once. The working copy
lies transposed, [columns, rows], so that a column is contiguous.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizer.algorithms.gptq.feedback import BLOCK, ErrorFeedback, HessianFactor, factor_hessian, row_parts
from quantizer.algorithms.gptq.scale_refit import fit_scales, refit_scales
from quantizer.algorithms.grid import GridRule, fit_grid
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.kernels.column_block import round_columns


@dataclass(frozen=True)
class GptqConfig:
    """Parameters of GPTQ, with Olive's names and defaults."""

    bits: int = 4
    group_size: int = 128
    """Input channels that share a scale; -1: all of a row."""
    damp_percent: float = 0.01
    """Share of the mean diagonal of H that is added to its diagonal."""
    desc_act: bool = False
    """Columns are rounded in order of decreasing activation instead of as they lie."""
    static_groups: bool = False
    """All grids are fitted to the unrounded weights, before the first column is rounded."""
    true_sequential: bool = False
    """Statistics of a stage come from the rounded stages before it; read by the pass, not by the solver."""
    sym: bool = False
    refit: bool = False
    """Scales are fitted again once their integers are known (scale_refit), and later columns see the difference; the
    reference does not do this."""
    scale_dtype: torch.dtype = torch.float32
    """As in grid.GridRule."""

    @property
    def rule(self) -> GridRule:
        """The grid of a group."""
        return GridRule(self.bits, self.sym, self.scale_dtype)

    @property
    def dynamic(self) -> bool:
        """Whether the grid of a group is fitted only when its first column is rounded."""
        return self.group_size != -1 and not self.static_groups

    def refits_in_blocks(self, columns: int) -> bool:
        """Whether scales are fitted again block by block: every group lies in one block then."""
        return self.refit and self.dynamic and BLOCK % self.group_width(columns) == 0

    def group_width(self, columns: int) -> int:
        """Columns of a group in a linear with that many columns."""
        return columns if self.group_size == -1 else self.group_size


class _Grids:
    """The grids of all groups, scales and zeros [G, N], fitted when they are first needed.

    weight: [N, K] as it lies in the checkpoint; order, dead: [K] the columns' order, and which are always zero.
    """

    def __init__(self, weight: Tensor, order: Tensor, dead: Tensor, config: GptqConfig) -> None:
        rows, columns = weight.shape
        self.rule, self.width = config.rule, config.group_width(columns)
        groups = math.ceil(columns / self.width)
        self.scales = weight.new_empty((groups, rows))
        self.zeros = weight.new_empty((groups, rows))
        natural = torch.arange(columns, device=weight.device) // self.width
        self.dynamic = config.dynamic
        self.g_idx = natural if self.dynamic else natural[order]
        self.refits = config.refits_in_blocks(columns)
        if config.group_size == -1:  # as in the reference, one grid for a row sees its dead columns too
            self.fit(weight.t(), 0)
        elif config.static_groups:
            self.fit(weight.t().masked_fill(dead.unsqueeze(1), 0.0), 0)

    def begun(self, start: int, stop: int) -> range:
        """Dynamic groups that begin in columns [start, stop)."""
        groups = range(math.ceil(start / self.width), math.ceil(stop / self.width))
        return groups if self.dynamic else range(0)

    def fit(self, columns: Tensor, first_group: int) -> None:
        """Fits the grids of whole groups to their columns [groups * width, N]."""
        grouped = columns.reshape(-1, self.width, columns.shape[1])
        last_group = first_group + grouped.shape[0]
        low, high = grouped.amin(1), grouped.amax(1)
        self.scales[first_group:last_group], self.zeros[first_group:last_group] = fit_grid(
            low, high, self.rule
        )

    def refit(self, columns: Tensor, integers: Tensor, hessian: Tensor, groups: range) -> None:
        """Fits the scales of whole groups again; columns, integers [groups * width, N], hessian of these columns."""
        block = slice(groups.start, groups.stop)
        levels = integers.float() - self.zeros[block].repeat_interleave(self.width, 0)
        fitted = fit_scales(columns, levels, self.scales[block], hessian)
        self.scales[block] = fitted.to(self.rule.scale_dtype)

    def read(self, integers: Tensor, columns: slice) -> Tensor:
        """What a reader sees of the integers [columns, N]: float32."""
        groups = self.g_idx[columns]
        return (integers.float() - self.zeros[groups]) * self.scales[groups]


@dataclass(frozen=True)
class Factored:
    """A Hessian as the solver needs it; the same whatever the bits and the group size."""

    order: Tensor
    """[K] the columns in the order in which they are rounded."""
    dead: Tensor
    """[K] whether an input was always zero: its weights are rounded to 0."""
    factor: HessianFactor
    damp_percent: float
    """The damping that was used."""


def factor(hessian: Tensor, config: GptqConfig) -> Factored:
    """Factors H [K, K] for a configuration's order and damping; raises as gptq does."""
    dead = hessian.diagonal() == 0
    order = torch.arange(len(dead), device=hessian.device)
    if config.desc_act:
        importance = hessian.diagonal().masked_fill(dead, 1.0)
        order = torch.argsort(importance, descending=True, stable=True)
    made, damp_percent = factor_hessian(hessian, order, config.damp_percent)
    return Factored(order, dead, made, damp_percent)


def gptq(
    weight: Tensor, hessian: Tensor, config: GptqConfig, factored: Factored | None = None
) -> tuple[QuantizedWeight, float]:
    """Rounds a weight [N, K] so that tr((W - Q) H (W - Q)') is small.

    Dynamic groups are fitted to the weights as they are when the block in which the group begins does: compensated
    for all blocks before, not for columns of this one. That is what the reference does, and it lets all of a
    block's groups be fitted at once.

    Args:
        weight: one linear, or several that share their input, stacked by rows.
        hessian: H [K, K] float32; not changed.
        config: group_size must divide K.
        factored: of the same H; by default it is factored here.

    Returns:
        The quantized weight, scales and zeros float32; and the damping that was used, larger than asked for when H
        was too close to singular.

    Raises:
        QuantizationError: NumericalFailure when H cannot be factored.
    """
    columns = weight.shape[1]
    found = factored or factor(hessian, config)
    order, dead, damp_percent = found.order, found.dead, found.damp_percent
    inverse = torch.argsort(order)
    parts = []
    for part in row_parts(weight):
        rows = weight[part].float()
        grids = _Grids(rows, order, dead, config)
        integers = _round_rows(rows.t().index_select(0, order), dead[order], found.factor, grids)
        parts.append((integers[inverse].t(), grids.scales.t(), grids.zeros.t()))
    g_idx = grids.g_idx[inverse].to(torch.int32)
    integers, scales, zeros = (torch.cat(kind).contiguous() for kind in zip(*parts, strict=True))
    quantized = QuantizedWeight(integers, scales, zeros, g_idx)
    if config.refit and not config.refits_in_blocks(columns):
        quantized = refit_scales(weight, hessian, quantized, damp_percent)
    return quantized, damp_percent


def _round_rows(columns: Tensor, dead: Tensor, factor: HessianFactor, grids: _Grids) -> Tensor:
    """Integers [K, N] uint8 of transposed weights [K, N] in the order of the factor; they are used up."""
    columns[dead] = 0.0
    integers = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)
    feedback = ErrorFeedback(columns, factor)
    for start in range(0, len(columns), BLOCK):
        stop = min(start + BLOCK, len(columns))
        begun = grids.begun(start, stop)
        seen, own = feedback.block(start, max(stop, begun.stop * grids.width if begun else 0))
        if begun:
            grids.fit(seen[begun.start * grids.width - start : begun.stop * grids.width - start], begun.start)
        count, block = stop - start, slice(start, stop)
        integers[block], _ = round_columns(
            seen[:count],
            own[:count, :count],
            grids.scales,
            grids.zeros,
            grids.g_idx[block],
            grids.rule.maxq,
        )
        if grids.refits:
            grids.refit(seen, integers[block], feedback.remaining(start, stop), begun)
        feedback.finish(start, stop, grids.read(integers[block], block))
    return integers
