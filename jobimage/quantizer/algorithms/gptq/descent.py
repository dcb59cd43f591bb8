"""Coordinate descent on the integers of a weight that GPTQ has rounded. Pure.

GPTQ chooses a column's integers while those of the later columns are open, and never comes back. When all are known,
each column can be chosen again given all others. With E = W - Q, H the damped Hessian and q the column as it is, the
row's error E H E' has its least at

    q  +  (E H)_j / H_jj

so the nearest point of the grid to that is the best of the grid, and no choice makes the error larger. A round goes
over all columns, block by block: what the errors of all columns ask of a block is one product with a long inner
dimension, and within the block column after column, by the same kernel as GPTQ. Where a block holds whole groups
their scales are fitted again behind it (scale_refit), with what is known already.
"""

import torch
from torch import Tensor

from quantizer.algorithms.gptq.feedback import BLOCK
from quantizer.algorithms.gptq.grids import Grids
from quantizer.algorithms.gptq.scale_refit import scale_steps
from quantizer.algorithms.hessian import damped_slope
from quantizer.kernels.column_block import round_columns

ROUNDS = 2
"""More lower the error further, but by less than their time is worth (docs/benchmarks.md)."""


def descend(errors: Tensor, integers: Tensor, grids: Grids, hessian: Tensor, damping: float) -> None:
    """Rounds of all columns.

    Args:
        errors: [K, N] float32, W - Q transposed, columns in the order of the grids; changed with the integers.
        integers: [K, N] uint8; changed.
        grids: of the same weight; scales change where they are fitted again.
        hessian: H [K, K] float32 in that order.
        damping: added to its diagonal.
    """
    size = BLOCK // grids.width * grids.width if grids.refits else BLOCK
    for start in [start for _ in range(ROUNDS) for start in range(0, len(errors), size)]:
        block = slice(start, min(start + size, len(errors)))
        own = hessian[block, block].clone()
        own.diagonal().add_(damping)
        slope = damped_slope(errors, hessian, block, damping)
        slope.addmm_(own, _choose_again(errors, integers, grids, slope, own, block))
        if grids.refits:
            _refit(errors, integers, grids, slope, own, block)


def _choose_again(
    errors: Tensor, integers: Tensor, grids: Grids, slope: Tensor, own: Tensor, block: slice
) -> Tensor:
    """Chooses the integers of a block's columns; returns what that adds to their errors [columns, N].

    slope: (E H)' of the block's columns. own: H of them, damped.
    """
    curvature = own.diagonal()
    before = grids.read(integers[block], block)
    target = torch.addcdiv(before, slope, curvature.unsqueeze(1))
    influence = own.div(curvature).neg_()
    influence.diagonal().fill_(1.0)
    chosen, added = round_columns(
        target, influence, grids.scales, grids.zeros, grids.g_idx[block], grids.rule.maxq, before
    )
    integers[block] = chosen
    errors[block] += added
    return added


def _refit(errors: Tensor, integers: Tensor, grids: Grids, slope: Tensor, own: Tensor, block: slice) -> None:
    """Fits the scales of a block's groups again."""
    groups = slice(block.start // grids.width, block.stop // grids.width)
    before = grids.scales[groups]
    levels = grids.levels(integers[block], block).view(-1, grids.width, errors.shape[1])
    after = (before + scale_steps(slope, levels, own, before)).to(grids.rule.scale_dtype).float()
    errors[block] -= (levels * (after - before).unsqueeze(1)).flatten(0, 1)
    grids.scales[groups] = after
