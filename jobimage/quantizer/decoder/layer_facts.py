"""What is asked about a decoder layer again and again, without its modules; layers that are built alike share it.

A module for each linear of hundreds of experts takes longer to make than all else that is found, so one layer of each
kind is made.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Self

from torch import nn

from quantizer.decoder.architecture import Stage
from quantizer.decoder.linear_experts import LinearExperts
from quantizer.decoder.pattern import LayerNames, LayerPattern


@dataclass(frozen=True)
class LayerFacts:
    """Of a layer, as the methods of DecoderLayout return it; names are those in the checkpoint."""

    first: int
    """The first layer that is built so."""
    shapes: dict[str, tuple[int, ...]]
    stages: tuple[Stage, ...]
    linear_shapes: dict[str, tuple[int, int]]
    names: LayerNames
    ignored: tuple[str, ...]
    always_float: tuple[str, ...]
    whole_numbers: tuple[str, ...]

    @classmethod
    def of(cls, index: int, pattern: LayerPattern) -> Self:
        """The facts of layer `index`."""
        linears: dict[str, tuple[int, int]] = {}
        for stage in pattern.stages:
            for name in stage.names:
                rows, columns = pattern.transposed_shape(f"{name}.weight")
                linears[name] = (rows, columns)
        return cls(
            index,
            pattern.shapes,
            pattern.stages,
            linears,
            pattern.names,
            pattern.ignored,
            pattern.always_float,
            pattern.whole_numbers,
        )


class KnownFacts:
    """The facts of the layers that were looked at, by how these are built."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[LayerFacts]] = {}

    def get(self, kind: Hashable, stored: Callable[[str], str], make: Callable[[], LayerFacts]) -> LayerFacts:
        """Those of a layer of a kind whose tensors the checkpoint calls so; they are made where none is alike."""
        alike = self._known.setdefault(kind, [])
        for one in alike:
            if all(stored(name) == other for name, other in one.names.stored.items()):
                return one
        alike.append(make())
        return alike[-1]


def kind_of(layer: nn.Module) -> Hashable:
    """Equal for two layers whose modules and tensors, without values, are alike."""
    return tuple((name, *_kind_of_part(part)) for name, part in layer.named_modules())


def _kind_of_part(part: nn.Module) -> tuple[Hashable, ...]:
    shapes = tuple(
        (name, None if value is None else (tuple(value.shape), value.dtype))
        for name, value in (*part._parameters.items(), *part._buffers.items())
    )
    experts: tuple[Hashable, ...] = ()
    if isinstance(part, LinearExperts):
        fused = part.fused
        experts = (fused.count, fused.width, fused.inner, fused.idle, tuple(fused.places.items()))
    cls = type(part)  # of experts, each layer has a class of its own
    kept = frozenset(part._non_persistent_buffers_set)
    return f"{cls.__module__}.{cls.__qualname__}", shapes, kept, experts
