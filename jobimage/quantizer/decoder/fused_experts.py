"""How tensors hold several experts: which rows of which tensor are a linear's."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"
"""The linears of an expert."""

Half = Literal["all", "first", "second", "even", "odd"]
"""Which rows of a tensor are a linear's: all; the first or the second half; every second one, from 0 or from 1."""


@dataclass(frozen=True)
class Place:
    """Where an expert's weight or bias lies in a fused tensor."""

    tensor: str
    half: Half = "all"
    transposed: bool = False
    """Whether the tensor holds [K, N] of each expert."""

    def cut(self, block: Tensor) -> Tensor:
        """The weight [N, K] or bias [N] in one expert's part of the tensor."""
        rows = block.t() if self.transposed else block
        return rows[rows_of_half(self.half, rows.shape[0])]


def rows_of_half(half: Half, count: int) -> slice:
    """Rows of a half among `count`."""
    if half in ("even", "odd"):
        return slice(int(half == "odd"), count, 2)
    middle = count // 2
    return {"all": slice(0, count), "first": slice(0, middle)}.get(half, slice(middle, count))


@dataclass(frozen=True)
class FusedExperts:
    """How a module holds its experts."""

    count: int
    width: int
    inner: int
    places: dict[str, Place]
    """By the name in an expert: gate_proj.weight, ..."""
    idle: int = 0
    """How many experts that do nothing are numbered behind the others; the first tensor may have rows for them."""

    @property
    def gated(self) -> bool:
        """Whether an expert has a gate beside up."""
        return f"{GATE}.weight" in self.places

    @property
    def interleaved(self) -> bool:
        """Whether rows of gate and up lie in turn."""
        return self.places[f"{UP}.weight"].half == "odd"

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an expert's weight or bias."""
        linear, _, leaf = name.rpartition(".")
        rows, columns = (self.width, self.inner) if linear == DOWN else (self.inner, self.width)
        return (rows, columns) if leaf == "weight" else (rows,)
