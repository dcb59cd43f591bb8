"""How many calibration tokens the routers of a mixture sent to each expert, layer by layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from quantization_api.manifest import LinearReport

EXPERT = re.compile(r"(?P<layer>.*)\.experts\.(?P<number>\d+)\.[^.]+")


@dataclass(frozen=True)
class LayerExperts:
    """The experts of one layer."""

    layer: str
    """Dotted name of what holds them."""
    tokens: tuple[int, ...]
    """That the router sent to each, expert 0's first."""
    read_all: bool
    """Whether each read every token while statistics were gathered."""
    nearest: int
    """Experts that were rounded to nearest."""

    @property
    def counts(self) -> tuple[str, str, str]:
        """Fewest, median and most tokens."""
        return f"{min(self.tokens):,}", f"{median(self.tokens):,g}", f"{max(self.tokens):,}"


def experts_by_layer(linears: Sequence[LinearReport]) -> list[LayerExperts]:
    """In the order of the layers; nothing for a model without experts, or where tokens were not counted."""
    layers: dict[str, dict[int, LinearReport]] = {}
    for linear in linears:
        found = EXPERT.fullmatch(linear.name)
        if found and linear.tokens is not None:
            layers.setdefault(found["layer"], {})[int(found["number"])] = linear
    return [_layer(name, [experts[number] for number in sorted(experts)]) for name, experts in layers.items()]


def _layer(name: str, experts: Sequence[LinearReport]) -> LayerExperts:
    sent = tuple(linear.tokens or 0 if linear.routed is None else linear.routed for linear in experts)
    read_all = any(linear.routed is not None for linear in experts)
    return LayerExperts(name, sent, read_all, sum(linear.nearest for linear in experts))


def in_words(linears: Sequence[LinearReport]) -> str | None:
    """One sentence or two; None without experts."""
    layers = experts_by_layer(linears)
    if not layers:
        return None
    every = [count for layer in layers for count in layer.tokens]
    who = "The router of one layer sent each of its experts"
    if len(layers) > 1:
        who = f"The routers of {len(layers)} layers sent each of their experts"
    said = f"{who} {min(every):,} to {max(every):,} calibration tokens (median {median(every):,g})."
    if any(layer.read_all for layer in layers):
        said += " While statistics were gathered, every expert read every token."
    return said
