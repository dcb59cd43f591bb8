"""GPTQ (Frantar et al., arXiv 2210.17323): rounding with error feedback, on (weight, Hessian), free of I/O.

Columns are rounded in blocks of 128, a block by kernels.column_block; what it takes over from the blocks before
comes from feedback, which describes the algorithm.

Rows are independent, so linears that share an input are stacked and solved at once. The working copy
lies transposed, [columns, rows], so that a column is contiguous.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.descent import descend
from quantizer.algorithms.gptq.feedback import BLOCK, ErrorFeedback, HessianFactor, factor_hessian, row_parts
from quantizer.algorithms.gptq.grids import Grids
from quantizer.algorithms.gptq.scale_refit import refit_scales
from quantizer.algorithms.hessian import damping_of, in_order
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.kernels.column_block import round_columns


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
    found = factored or factor(hessian, config)
    order, damp_percent = found.order, found.damp_percent
    importance = found.factor.conditional() if config.refines else None
    ordered = in_order(hessian, order) if config.refines else hessian
    parts = []
    for part in row_parts(weight):
        rows = weight[part].float()
        grids = Grids(rows, order, found.dead, config, importance)
        columns = rows.t().index_select(0, order)
        integers = _round_rows(columns, found.dead[order], found.factor, grids)
        if config.refines:
            descend(columns, integers, grids, ordered, damping_of(hessian, damp_percent))
        parts.append((integers, grids.scales.t(), grids.zeros.t()))
    inverse = torch.argsort(order)
    g_idx = grids.g_idx[inverse].to(torch.int32)
    integers = torch.cat([columns[inverse].t() for columns, _, _ in parts]).contiguous()
    scales, zeros = (torch.cat(kind).contiguous() for kind in list(zip(*parts, strict=True))[1:])
    quantized = QuantizedWeight(integers, scales, zeros, g_idx)
    if config.refines and not grids.refits:
        fitted = refit_scales(weight, hessian, quantized, damp_percent)
        quantized = replace(fitted, scales=fitted.scales.to(config.scale_dtype).float())
    return quantized, damp_percent


def _round_rows(columns: Tensor, dead: Tensor, factor: HessianFactor, grids: Grids) -> Tensor:
    """Integers [K, N] uint8 of transposed weights [K, N] in the order of the factor, which become the errors."""
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
