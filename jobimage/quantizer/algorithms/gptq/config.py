"""Parameters of the GPTQ solver."""

from dataclasses import dataclass

import torch

from quantizer.algorithms.gptq.feedback import BLOCK
from quantizer.algorithms.grid import GridRule

REFINED_BITS = 4
"""Rounding is refined up to this many bits. At 8 the grid is so fine that only the noise of a short calibration is
left to fit: on a tiny model the logits of other tokens were off by 2.1 % with fitted scales and by 1.9 % without."""


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
    refine: bool = False
    """Grids are searched (grid_search), integers improved once all are known (descent), and scales fitted again to them
    (scale_refit), up to REFINED_BITS; the reference does none of it."""
    scale_dtype: torch.dtype = torch.float32
    """As in grid.GridRule."""

    @property
    def rule(self) -> GridRule:
        """The grid of a group."""
        return GridRule(self.bits, self.sym, self.scale_dtype)

    @property
    def refines(self) -> bool:
        """Whether anything beyond the reference is done."""
        return self.refine and self.bits <= REFINED_BITS

    @property
    def dynamic(self) -> bool:
        """Whether the grid of a group is fitted only when its first column is rounded."""
        return self.group_size != -1 and not self.static_groups

    def refits_in_blocks(self, columns: int) -> bool:
        """Whether scales are fitted again block by block: every group lies in one block then."""
        return self.refines and self.dynamic and BLOCK % self.group_width(columns) == 0

    def group_width(self, columns: int) -> int:
        """Columns of a group in a linear with that many columns."""
        return columns if self.group_size == -1 else self.group_size
