"""Rounding that is learned: the integers and scales of a weight, moved by the sign of a gradient. Pure.

Behind each integer stands a latent number, in steps of the scale, whose rounding it is. A step moves every latent by
the same small amount against the gradient of its weight, and every scale by a small part of itself (SignRound,
arXiv 2309.05516). The latents begin where the integers are those of a solver and the latent is as near to its weight as
that allows. So a good start is kept, and what lies near a boundary, where GPTQ decided against the nearest integer or
nearly did, moves first.
"""

import torch
from torch import Tensor

from quantizer.algorithms.grid import GridRule, as_stored
from quantizer.algorithms.quantized_weight import QuantizedWeight

EDGE = 0.49
"""A latent begins at most that far from its integer."""
REACH = 0.5
"""And ends at most that far from where it began."""


class LearnedRounding:
    """One weight [N, K] while its rounding is learned.

    Args:
        weight: [N, K] float32, what was to be rounded.
        quantized: what it was rounded to.
        rule: its grid.
    """

    def __init__(self, weight: Tensor, quantized: QuantizedWeight, rule: GridRule) -> None:
        self._start, self._rule = quantized, rule
        rows, columns = weight.shape
        groups = quantized.scales.shape[1]
        self._shape = (rows, groups, columns // groups)
        self._order = torch.argsort(quantized.g_idx, stable=True)
        self._inverse = torch.argsort(self._order)
        self._scales = quantized.scales.float().unsqueeze(-1).clone()
        self._zeros = quantized.zeros.float().unsqueeze(-1)
        self._levels = self._grouped(quantized.integers.float()) - self._zeros
        ideal = self._grouped(weight) / self._scales
        self._begin = torch.minimum(torch.maximum(ideal, self._levels - EDGE), self._levels + EDGE)
        self._latent = self._begin.clone()

    def weight(self) -> Tensor:
        """What a reader sees now: [N, K] float32."""
        return self._as_it_lies(self._levels * self._scales)

    def step(self, gradient: Tensor, rate: float, scale_rate: float) -> None:
        """One step against the gradient [N, K] of the weight.

        rate: of the latents, in steps of the scale. scale_rate: of the scales, a share of each.
        """
        slope = self._grouped(gradient.float())
        of_scales = (slope * self._levels).sum(-1, keepdim=True)
        self._latent.sub_(slope.sign_(), alpha=rate)
        torch.maximum(self._latent, self._begin - REACH, out=self._latent)
        torch.minimum(self._latent, self._begin + REACH, out=self._latent)
        self._scales.mul_(of_scales.sign_().mul_(-scale_rate).add_(1.0))
        torch.round(self._latent, out=self._levels)
        torch.maximum(self._levels, -self._zeros, out=self._levels)
        torch.minimum(self._levels, self._rule.maxq - self._zeros, out=self._levels)

    def quantized(self) -> QuantizedWeight:
        """What the weight is rounded to now."""
        integers = self._as_it_lies(self._levels + self._zeros).to(torch.uint8)
        scales = as_stored(self._scales.squeeze(-1), self._rule)
        return QuantizedWeight(integers, scales, self._start.zeros, self._start.g_idx)

    def _grouped(self, values: Tensor) -> Tensor:
        """[N, K] as it lies -> [N, G, W]; a copy."""
        return values.index_select(1, self._order).view(self._shape)

    def _as_it_lies(self, values: Tensor) -> Tensor:
        return values.flatten(1).index_select(1, self._inverse)
