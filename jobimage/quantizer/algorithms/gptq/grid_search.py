"""The grid of a group, searched by what rounding to it costs. Pure.

The grid from the smallest to the largest weight of a group is seldom the best: a few weights at the ends make every
step wide. So the range is shrunk by several ratios, and the grid is taken whose RTN has the least weighted error.
What it is weighted with decides: by the squares of the weights alone it harms, since small errors in channels that are
hardly used are paid for with large ones elsewhere. The weight of a column is its diagonal element of the Hessian that
is left when the columns after its block make up for its error as well as they can (HessianFactor.conditional); the
whole matrix instead of its diagonal was measured, and gives no more.

The integers of the best grid then say which scale would have been best for them, and that one is tried as well.
"""

import torch
from torch import Tensor

from quantizer.algorithms.grid import GridRule, as_stored, fit_grid

RATIOS = tuple(1 - 0.04 * step for step in range(12))  # 1.00 to 0.56


def search_grid(columns: Tensor, importance: Tensor, rule: GridRule) -> tuple[Tensor, Tensor]:
    """Scales and zero points [G, N] of groups of transposed weights.

    Args:
        columns: [G, W, N] float32, G groups of W columns.
        importance: [G, W], not negative: what a squared error of a column counts.
        rule: bits and symmetry.
    """
    weights = importance.unsqueeze(1)
    low, high = columns.amin(1), columns.amax(1)
    work = torch.empty_like(columns)
    scale, zero = fit_grid(low, high, rule)
    least = _error(columns, weights, scale, zero, rule, work)
    for ratio in RATIOS[1:]:
        tried, centre = fit_grid(low * ratio, high * ratio, rule)
        error = _error(columns, weights, tried, centre, rule, work)
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, tried, scale)
        zero = torch.where(better, centre, zero)
    tried = _best_for_its_levels(columns, weights, scale, zero, rule, work)
    better = _error(columns, weights, tried, zero, rule, work) < least
    return torch.where(better, tried, scale), zero


def _levels(columns: Tensor, scale: Tensor, zero: Tensor, rule: GridRule, work: Tensor) -> Tensor:
    """The levels (integers less zero points) [G, W, N] of RTN, in `work`."""
    torch.div(columns, scale.unsqueeze(1), out=work).round_()
    if rule.sym:
        return work.clamp_(-rule.half, rule.maxq - rule.half)
    zero = zero.unsqueeze(1)
    return torch.minimum(torch.maximum(work, -zero, out=work), rule.maxq - zero, out=work)


def _error(
    columns: Tensor, weights: Tensor, scale: Tensor, zero: Tensor, rule: GridRule, work: Tensor
) -> Tensor:
    """The weighted squared error [G, N] of RTN; weights [G, 1, W]."""
    change = _levels(columns, scale, zero, rule, work).mul_(scale.unsqueeze(1)).sub_(columns)
    return (weights @ change.square_()).squeeze(1)


def _best_for_its_levels(
    columns: Tensor, weights: Tensor, scale: Tensor, zero: Tensor, rule: GridRule, work: Tensor
) -> Tensor:
    """The scales [G, N] that are best for the levels of these grids; as they are where that is none."""
    levels = _levels(columns, scale, zero, rule, work)
    curvature = (weights @ levels.square()).squeeze(1)
    found = (weights @ levels.mul_(columns)).squeeze(1) / curvature
    return torch.where((curvature > 0) & (found > 0), as_stored(found, rule), scale)
