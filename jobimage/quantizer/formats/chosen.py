"""What formats have in common whose linears may differ in bits and group size."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from typing_extensions import override

from quantizer.algorithms.grid import Scheme
from quantizer.formats.interface import WeightFormat


@dataclass(frozen=True)
class ChosenFormat(WeightFormat):
    """A format with bits and groups of its own for each linear where they were chosen."""

    bits: int
    group_size: int = 128
    sym: bool = False
    desc_act: bool = False
    head: bool = field(default=False, kw_only=True)
    """Whether the head is packed too."""
    schemes: Mapping[str, Scheme] = field(default_factory=dict, kw_only=True)
    """By full name, where the linears differ; bits and group_size are then those of most of them."""

    @override
    def scheme(self, name: str) -> Scheme | None:
        return self.schemes.get(name)

    @override
    def of(self, name: str) -> Self:
        found = self.schemes.get(name)
        if found is None:
            return self
        return replace(self, bits=found.bits, group_size=found.group_size, schemes={})
