"""AWQ (Lin et al., arXiv 2306.00978): its parameters, its grid, and RTN on it.

A group of linears that read the same input x is treated in four steps, each free of I/O:

    choice = search_scales(W, gram, magnitude, config)      scales       one scale for each input channel
    fold 1 / s into what makes x, s into the columns of W   folding      the function stays the same
    limits = search_clip(W s, gram / s s', config)          clip         one limit for each group of a row
    awq_round(W s, config, limits)                          here

Every error is measured in Gram form: a change E of the weights changes the outputs by
E[|E x|^2] = tr(E G E') with G = E[x x'], so no search runs the model.

The grid is AutoAWQ's, with one departure: the range of an asymmetric group always contains 0. AutoAWQ fits
min and max as they are and clamps the zero point afterwards, which clips a group that has no weight on one
side of 0 to its smallest values.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite
from quantizer.algorithms.grid import round_to_grid
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx

SMALLEST_RANGE = 1e-5  # of a group, as in AutoAWQ: a group of zeros gets a scale that is not 0
SMALLEST_HALF = 2.0**-24  # the least positive float16: no scale is stored as 0

Clip = Literal["none", "groups", "rows"]


@dataclass(frozen=True)
class AwqConfig:
    """Parameters of AWQ, with Olive's names and defaults."""

    bits: int = 4
    group_size: int = 128
    """Input channels that share a scale of the grid; -1: all of a row."""
    zero_point: bool = True
    """Asymmetric grid, weight = (q - zero) * scale; without it zero is 2^(bits-1)."""
    duo_scaling: bool = True
    """Channel scales from weights and activations instead of activations alone."""
    clip: Clip = "rows"
    """How clipping limits are judged.

    "groups" (the paper's): by the error of each group alone, from the diagonal blocks of G; "rows": by the error of
    the whole row, from all of G; "none": no clipping. KL on held-out text with the example model, for rows, groups,
    none: 4 bits .065, .074, .089; 3 bits .313, .343, .424; 2 bits 1.90, 2.18, 3.19."""
    scale_dtype: torch.dtype = torch.float16
    """The grid's scales are rounded to this type before anything is rounded with them; float16 is what is stored, so
    that searches see the value that a reader will use."""

    @property
    def maxq(self) -> int:
        """Largest integer of the grid."""
        return int(2**self.bits) - 1

    def group_width(self, columns: int) -> int:
        """Columns of a group in a linear with that many columns; InvalidWorkflow when they do not divide."""
        width = columns if self.group_size == -1 else self.group_size
        if columns % width:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"q_group_size {width} does not divide {columns} input channels",
                "Choose a q_group_size that divides them, or -1.",
            )
        return width


def fit_awq_grid(groups: Tensor, config: AwqConfig) -> tuple[Tensor, Tensor]:
    """Scale and zero point [..., 1] (float32, the zero an integer value) of groups of weights [..., width]."""
    if config.zero_point:
        low = groups.amin(-1, keepdim=True).clamp_(max=0.0)
        high = groups.amax(-1, keepdim=True).clamp_(min=0.0)
        scale = _as_stored((high - low).clamp_(min=SMALLEST_RANGE).div_(config.maxq), config)
        return scale, low.neg_().div_(scale).round_().clamp_(0, config.maxq)
    half = 2.0 ** (config.bits - 1)
    largest = torch.maximum(groups.amax(-1, keepdim=True), groups.amin(-1, keepdim=True).neg_())
    scale = _as_stored(largest.clamp_(min=SMALLEST_RANGE).div_(half - 1), config)
    return scale, torch.full_like(scale, half)


def _as_stored(scale: Tensor, config: AwqConfig) -> Tensor:
    return scale.clamp_(min=SMALLEST_HALF).to(config.scale_dtype).float()


def rounded_values(groups: Tensor, config: AwqConfig) -> Tensor:
    """What weights [..., width] become when each group of the last dimension is rounded to its own grid."""
    scale, zero = fit_awq_grid(groups, config)
    return round_to_grid(groups, scale, zero, config.maxq).sub_(zero).mul_(scale)


def awq_round(weight: Tensor, config: AwqConfig, limits: Tensor | None = None) -> QuantizedWeight:
    """Rounds a weight to the nearest value of the AWQ grid.

    Args:
        weight: [N, K], already multiplied with its channel scales.
        limits: [N, G], the largest magnitude that a weight of a group keeps (see clip); None: all of it.

    Raises:
        QuantizationError: InvalidWorkflow when group_size does not divide K; NumericalFailure when a weight
            is not finite or a scale overflows scale_dtype.
    """
    rows, columns = weight.shape
    width = config.group_width(columns)
    groups = weight.float().view(rows, -1, width)
    if limits is not None:
        groups = clipped(groups, limits.unsqueeze(-1))
    scale, zero = fit_awq_grid(groups, config)
    if not all_finite(scale):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            "a weight is not finite, or too large for the type that scales are stored in",
        )
    integers = round_to_grid(groups, scale, zero, config.maxq)
    return QuantizedWeight(
        integers.view(rows, columns).to(torch.uint8),
        scale.squeeze(-1),
        zero.squeeze(-1),
        natural_g_idx(columns, columns // width, weight.device),
    )


def clipped(groups: Tensor, limits: Tensor) -> Tensor:
    """Weights with magnitudes above the limits (which broadcast) cut to them."""
    return torch.minimum(torch.maximum(groups, -limits), limits)


def clip_weight(weight: Tensor, limits: Tensor) -> Tensor:
    """A weight [N, K] with its groups cut to limits [N, G]."""
    groups = weight.view(weight.shape[0], limits.shape[1], -1)
    return clipped(groups, limits.unsqueeze(-1).to(weight.dtype)).view_as(weight)
