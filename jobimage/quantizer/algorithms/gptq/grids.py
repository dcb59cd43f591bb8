"""The grids of all groups of a linear while GPTQ rounds it."""

import math

import torch
from torch import Tensor

from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.feedback import BLOCK
from quantizer.algorithms.gptq.grid_search import search_grid
from quantizer.algorithms.gptq.scale_refit import fit_scales
from quantizer.algorithms.grid import fit_grid


class Grids:
    """Scales and zeros [G, N] of all groups, fitted when they are first needed.

    Args:
        weight: [N, K] float32 as it lies in the checkpoint.
        order: [K] the order in which the columns are rounded.
        dead: [K] which columns are always zero, as they lie.
        config: of the solver.
        importance: [K] what an error of a column counts where grids are searched, in that order.
    """

    def __init__(
        self, weight: Tensor, order: Tensor, dead: Tensor, config: GptqConfig, importance: Tensor | None
    ) -> None:
        rows, columns = weight.shape
        self.rule, self.width = config.rule, config.group_width(columns)
        groups = math.ceil(columns / self.width)
        self.scales = weight.new_empty((groups, rows))
        self.zeros = weight.new_empty((groups, rows))
        natural = torch.arange(columns, device=weight.device) // self.width
        self.dynamic = config.dynamic
        self.g_idx = natural if self.dynamic else natural[order]
        self.refits = config.refits_in_blocks(columns)
        self._importance = importance
        if not self.dynamic:
            if importance is not None:
                self._importance = torch.empty_like(importance).index_copy_(0, order, importance)
            # as in the reference, one grid for a row sees its dead columns too
            kept = weight if config.group_size == -1 else weight.masked_fill(dead, 0.0)
            self.fit(kept.t(), 0)

    def begun(self, start: int, stop: int) -> range:
        """Dynamic groups that begin in columns [start, stop)."""
        groups = range(math.ceil(start / self.width), math.ceil(stop / self.width))
        return groups if self.dynamic else range(0)

    def fit(self, columns: Tensor, first_group: int) -> None:
        """Fits the grids of whole groups to their columns [groups * width, N]."""
        grouped = columns.reshape(-1, self.width, columns.shape[1])
        at_once = max(1, BLOCK // self.width)  # what is computed of them stays in the caches
        for number, part in enumerate(grouped.split(at_once)):
            first = first_group + number * at_once
            self._fit(part, slice(first, first + len(part)))

    def _fit(self, part: Tensor, groups: slice) -> None:
        if self._importance is None:
            found = fit_grid(part.amin(1), part.amax(1), self.rule)
        else:
            columns = slice(groups.start * self.width, groups.stop * self.width)
            found = search_grid(part, self._importance[columns].view(-1, self.width), self.rule)
        self.scales[groups], self.zeros[groups] = found

    def refit(self, columns: Tensor, integers: Tensor, hessian: Tensor, groups: range) -> None:
        """Fits the scales of whole groups again; columns, integers [groups * width, N], hessian of these columns."""
        block = slice(groups.start, groups.stop)
        levels = integers.float() - self.zeros[block].repeat_interleave(self.width, 0)
        fitted = fit_scales(columns, levels, self.scales[block], hessian)
        self.scales[block] = fitted.to(self.rule.scale_dtype)

    def levels(self, integers: Tensor, columns: slice) -> Tensor:
        """Integers less zero points of some columns [columns, N]: float32."""
        return integers.float() - self.zeros[self.g_idx[columns]]

    def read(self, integers: Tensor, columns: slice) -> Tensor:
        """What a reader sees of the integers [columns, N]: float32."""
        return self.levels(integers, columns) * self.scales[self.g_idx[columns]]
