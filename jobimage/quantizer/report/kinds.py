"""Linears by kind: those that have the same name in every layer, experts of a layer together."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from quantization_api.manifest import LinearReport
from quantization_api.text import clean

NAME_LIMIT = 256


@dataclass(frozen=True)
class Kind:
    """The linears of a kind, in the order of the model."""

    name: str
    members: list[LinearReport]

    @property
    def error(self) -> float:
        """Median."""
        return median(module.error for module in self.members)

    @property
    def error_rtn(self) -> float:
        """Median of RTN's."""
        return median(module.error_rtn for module in self.members)

    @property
    def worst(self) -> LinearReport:
        """The linear with the largest error."""
        return max(self.members, key=lambda module: module.error)

    def by_layer(self) -> dict[int, tuple[float, float]]:
        """The mean errors, ours and RTN's, of each layer that has such linears."""
        return {
            layer: (fmean(one.error for one in found), fmean(one.error_rtn for one in found))
            for layer, found in self.layers().items()
        }

    def layers(self) -> dict[int, list[LinearReport]]:
        """The members in each layer that has some."""
        layers: dict[int, list[LinearReport]] = {}
        for module in self.members:
            layers.setdefault(_split(module.name)[0], []).append(module)
        return dict(sorted(layers.items()))


def by_kind(modules: Sequence[LinearReport]) -> list[Kind]:
    """In the order in which the kinds first appear."""
    kinds: dict[str, list[LinearReport]] = {}
    for module in modules:
        kinds.setdefault(_split(module.name)[1], []).append(module)
    return [Kind(name, members) for name, members in kinds.items()]


def rounds_to_nearest(modules: Sequence[LinearReport]) -> bool:
    """Whether nothing was gained over RTN because the pass is RTN."""
    return all(module.error == module.error_rtn for module in modules)


def _split(name: str) -> tuple[int, str]:
    """Layer and kind of PREFIX.NUMBER.KIND; a number within the kind is an expert's."""
    parts = clean(name, NAME_LIMIT).split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            kind = ["*" if inner.isdecimal() else inner for inner in parts[position + 1 :]]
            return int(part), ".".join(kind)
    return 0, ".".join(parts)
