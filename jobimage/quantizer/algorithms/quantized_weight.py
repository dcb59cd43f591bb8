"""A quantized weight, as the algorithms hand it on, the formats pack it, and a reader unpacks it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizer.algorithms.grid import GridRule, dequantize, fit_grid, round_to_grid


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [N, K] in G groups of columns, columns as they lie in the checkpoint.

    weight[n, k] = (integers[n, k] - zeros[n, g]) * scales[n, g]   with g = g_idx[k]
    """

    integers: Tensor
    """[N, K] uint8, from 0 to 2^bits - 1."""
    scales: Tensor
    """[N, G]: float32, or as stored."""
    zeros: Tensor
    """[N, G] integer values; 2^(bits - 1) everywhere on a symmetric grid."""
    g_idx: Tensor
    """[K] int32: the group of each column."""

    def rows(self, rows: slice | Tensor) -> "QuantizedWeight":
        """Some of its rows; views, not copies, of a slice."""
        return QuantizedWeight(self.integers[rows], self.scales[rows], self.zeros[rows], self.g_idx)

    def dequantized(self) -> Tensor:
        """The weight [N, K] in float32."""
        return dequantize(self.integers, self.scales, self.zeros, self.g_idx)


def round_to_nearest(weight: Tensor, group_size: int, rule: GridRule) -> QuantizedWeight:
    """RTN of a weight [N, K], columns grouped as they lie: what every pass has to beat.

    group_size: columns of a group; -1 is all of a row.
    """
    rows, columns = weight.shape
    width = columns if group_size == -1 else group_size
    groups = weight.float().view(rows, columns // width, width)
    scales, zeros = fit_grid(groups.amin(-1), groups.amax(-1), rule)
    integers = round_to_grid(groups, scales.unsqueeze(-1), zeros.unsqueeze(-1), rule.maxq)
    g_idx = natural_g_idx(columns, columns // width, weight.device)
    return QuantizedWeight(integers.view(rows, columns).to(torch.uint8), scales, zeros, g_idx)


def natural_g_idx(columns: int, groups: int, device: torch.device | None = None) -> Tensor:
    """The group of each column [K] int32 when groups are as wide as each other and lie one after another."""
    return (torch.arange(columns, device=device) // (columns // groups)).to(torch.int32)
