"""The integer grid of a group of weights: scale and zero point, and rounding to it.

A weight w is stored as q = clamp(round(w / scale) + zero, 0, 2^bits - 1) and read as (q - zero) * scale.

Two departures from the rule of the GPTQ reference code, for groups that have no negative weight:

* The zero point is never 0. The v1 checkpoint format stores zero - 1, and -1 would wrap to all ones:
  readers that add the one back to packed words carry it into the neighbouring zero point. Such a group
  gets zero 1 and one level less.
* A symmetric group of non-negative weights gets the scale max|w| / (2^(bits-1) - 1/2) like every other
  group. The reference gives it half of that and clips its largest weights to half their value.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_HALF = 2.0**-24  # the least positive float16: no scale is stored as 0


@dataclass(frozen=True)
class GridRule:
    """How grids are chosen."""

    bits: int
    sym: bool
    scale_dtype: torch.dtype = torch.float32
    """Scales are rounded to this type before anything is rounded with them.

    float32 is what the reference code does, so the integers are the same; float16 is what is stored, so that error
    feedback sees the value that a reader will use. Measured on a small Llama model, the two differ by less than the
    noise of the calibration set at every number of bits."""
    smallest_scale: float = SMALLEST_HALF
    """Of a group that is not all zeros."""

    @property
    def maxq(self) -> int:
        """Largest integer of the grid."""
        return int(2**self.bits) - 1

    @property
    def half(self) -> int:
        """The zero point of every symmetric grid."""
        return int(2 ** (self.bits - 1))


@dataclass(frozen=True)
class Scheme:
    """How finely a linear is rounded."""

    bits: int
    group_size: int
    """Columns that share a scale; -1: all of a row."""


@dataclass(frozen=True)
class GroupedGrid:
    """A grid for each group of columns of a row."""

    rule: GridRule
    group_size: int
    """Columns of a group; -1: all of a row."""

    def width(self, columns: int) -> int:
        """Columns of a group in a linear with that many columns."""
        return columns if self.group_size == -1 else self.group_size

    def groups(self, columns: int) -> int:
        """Groups of such a linear."""
        return columns // self.width(columns)


def fit_grid(low: Tensor, high: Tensor, rule: GridRule) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both float32, the zero an integer value) of groups with minimum and maximum given."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if rule.sym:
        high = torch.maximum(-low, high)
        low = -high
    flat = (low == 0) & (high == 0)
    low, high = torch.where(flat, -1.0, low), torch.where(flat, 1.0, high)
    scale = as_stored((high - low) / rule.maxq, rule)
    if rule.sym:
        return scale, torch.full_like(scale, rule.half)
    zero = torch.round(-low / scale).clamp_(max=rule.maxq)
    wraps = zero == 0
    scale = torch.where(wraps, as_stored(high / (rule.maxq - 1), rule), scale)
    return scale, torch.where(wraps, 1.0, zero)


def as_stored(scale: Tensor, rule: GridRule) -> Tensor:
    """Scales as float32, rounded to the type that they are stored in, and none too small."""
    return scale.clamp(min=rule.smallest_scale).to(rule.scale_dtype).float()


def round_to_grid(weight: Tensor, scale: Tensor, zero: Tensor, maxq: int) -> Tensor:
    """The integers (as float32) of weights; scale and zero broadcast against them."""
    return (weight / scale).round_().add_(zero).clamp_(0, maxq)


def dequantize(integers: Tensor, scale: Tensor, zero: Tensor, g_idx: Tensor) -> Tensor:
    """Weights [N, K] in float32 from integers [N, K], scales and zeros [N, G] and the group of each column [K]."""
    (rows, columns), groups = integers.shape, scale.shape[1]
    width = columns // groups
    index = g_idx.long()
    if columns == groups * width and torch.equal(index, torch.arange(columns, device=index.device) // width):
        grouped = integers.view(rows, groups, width).float()
        return grouped.sub_(zero.float().unsqueeze(-1)).mul_(scale.float().unsqueeze(-1)).view(rows, columns)
    return (integers.float() - zero.float()[:, index]) * scale.float()[:, index]
