"""The scales of rounded weights, fitted once more when their integers are known. Pure.

GPTQ fixes the scale of a group before it rounds the group's first column, from the smallest and the largest weight.
When the integers are known, the error (W - Q) H (W - Q)' of a row is a quadratic function of its scales, and the
least of it along one of them has a closed form: with l the levels of the group's columns (integer - zero point) and
E = W - Q

    scale  +=  (E H)_group l' / (l H_group l')

The groups take their turns one after another, each with the errors as the others left them, so no step makes the
error larger. Those of a block of columns take a few.

Where a block of columns holds whole groups, solver does this block by block: H is then what the columns after
the block, which are still to be rounded, cannot make up for, and they take over the error that the better scales
leave. That costs a product with a short inner dimension; at the end, for all columns (refit_scales), it is one with
a long one, as much arithmetic as all of the rounding twice. Measured on a small Llama model (docs/benchmarks.md) the
two lower the KL to the input model by the same.
"""

from dataclasses import replace

import torch
from torch import Tensor

from quantizer.algorithms.gptq.feedback import BLOCK, row_parts
from quantizer.algorithms.grid import SMALLEST_HALF
from quantizer.algorithms.hessian import damped_slope, damping_of, in_order
from quantizer.algorithms.quantized_weight import QuantizedWeight

ROUNDS = 4
"""Of the groups of a block, whose curvatures are known then, so that a round costs next to nothing."""


def refit_scales(
    weight: Tensor, hessian: Tensor, quantized: QuantizedWeight, damp_percent: float, turns: int = 1
) -> QuantizedWeight:
    """The same integers and zero points with better scales.

    H is damped as for the rounding, so that a short calibration is not fitted more closely than the weights
    themselves.

    Args:
        weight: [N, K] what was quantized.
        hessian: H [K, K] float32; not changed.
        damp_percent: of the rounding.
        turns: of all groups; with many the scales are the least-squares optimum for the integers.
    """
    added = damping_of(hessian, damp_percent)
    order = torch.argsort(quantized.g_idx, stable=True)
    as_they_lie = torch.equal(order, torch.arange(len(order), device=order.device))
    sorted_hessian = in_order(hessian, order)
    g_idx = quantized.g_idx[order].long()
    scales = []
    for part in row_parts(weight):
        columns, integers = weight[part].float().t(), quantized.integers[part].t()
        if not as_they_lie:
            columns, integers = columns[order], integers[order]
        levels = integers.float().contiguous() - quantized.zeros[part].t()[g_idx]
        found = quantized.scales[part].t()
        scales.append(fit_scales(columns, levels, found, sorted_hessian, added, turns).t())
    return replace(quantized, scales=torch.cat(scales).contiguous())


def fit_scales(
    columns: Tensor, levels: Tensor, scales: Tensor, hessian: Tensor, damping: float = 0.0, turns: int = 1
) -> Tensor:
    """Better scales [G, N] of transposed weights.

    Args:
        columns: [K, N] float32, what was rounded; groups lie one after another, all of one width.
        levels: [K, N] float32, integers less zero points.
        scales: [G, N] float32 to begin with.
        hessian: [K, K] float32; damping is added to its diagonal.
        turns: of all groups.
    """
    scales = scales.clone(memory_format=torch.contiguous_format)
    groups, width = len(scales), len(columns) // len(scales)
    errors = columns - (levels.view(groups, width, -1) * scales.unsqueeze(1)).flatten(0, 1)
    at_once = max(
        1, BLOCK // width
    )  # groups whose gradient comes from one product with a long inner dimension
    for first in [start for _ in range(turns) for start in range(0, groups, at_once)]:
        chosen = slice(first, min(first + at_once, groups))
        block = slice(chosen.start * width, chosen.stop * width)
        level = levels[block].view(-1, width, levels.shape[1])
        own = hessian[block, block].clone()
        own.diagonal().add_(damping)
        gradient = damped_slope(errors, hessian, block, damping)
        steps = scale_steps(gradient, level, own, scales[chosen])
        scales[chosen] += steps
        errors[block] -= (level * steps.unsqueeze(1)).flatten(0, 1)
    return scales


def scale_steps(gradient: Tensor, level: Tensor, own: Tensor, scales: Tensor) -> Tensor:
    """What to add to the scales [G, N] of the groups of a block.

    Args:
        gradient: [G * W, N] (E H)' of the block's columns.
        level: [G, W, N] float32.
        own: [G * W, G * W] H of the block.
        scales: [G, N] to begin with.
    """
    return _least(_by_group(gradient, level), _curvature(own, level), scales)


def _by_group(rows: Tensor, level: Tensor) -> Tensor:
    """What rows [groups * width, N] say of each group's scale [groups, N]; level [groups, width, N]."""
    return (rows.view(level.shape) * level).sum(1)


def _curvature(hessian: Tensor, level: Tensor) -> Tensor:
    """l_g H l_h of any two groups: [groups, groups, N], symmetric as H is."""
    groups, width, outputs = level.shape
    found = level.new_empty((groups, groups, outputs))
    for g in range(groups):
        bent = hessian[g * width :, g * width : (g + 1) * width] @ level[g]
        found[g, g:] = found[g:, g] = _by_group(bent, level[g:])
    return found


def _least(slope: Tensor, curvature: Tensor, scales: Tensor) -> Tensor:
    """Steps [G, N] towards the least of the quadratic function, group after group, a few rounds; scales stay positive.

    A group without levels has no curvature and takes no step.
    """
    steps = torch.zeros_like(scales)
    for group in [group for _ in range(ROUNDS if len(scales) > 1 else 1) for group in range(len(scales))]:
        own = curvature[group, group]
        step = torch.where(own > 0, slope[group] / own, 0.0)
        step = torch.maximum(step, SMALLEST_HALF - scales[group] - steps[group])
        steps[group] += step
        slope.addcmul_(curvature[group], step, value=-1)
    return steps
