"""Which tensors the layers and the head of a quantized model have, and their weights as a reader computes them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantizer.algorithms.grid import GroupedGrid
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.decoder.layout import DecoderLayout
from quantizer.formats.interface import HEAD, TensorShapes, WeightFormat


@dataclass(frozen=True)
class HeadAsRead:
    """A packed head, slice by slice as a reader computes it."""

    weight: QuantizedWeight
    format: WeightFormat

    def rows(self, first: int, last: int) -> Tensor:
        """Rows [first, last)."""
        return self.format.as_read(self.weight.rows(slice(first, last)))[:, : len(self.weight.g_idx)]


class QuantizedLayers:
    """The layers of `model` (the float one, or a quantized artifact's) with their linears packed.

    converts: whether the linear of a full name is packed. head: whether the head is.
    """

    def __init__(
        self,
        model: DecoderLayout,
        layout: WeightFormat,
        grid: GroupedGrid,
        converts: Callable[[str], bool],
        *,
        head: bool = False,
    ) -> None:
        self._model, self._layout, self._grid, self._converts = model, layout, grid, converts
        self.packs_head = head

    def converted(self, index: int) -> list[str]:
        """The linears of layer `index` that are packed, by their names in the layer."""
        prefix = self._model.layer_prefix(index)
        return [name for name in self._model.linears(index) if self._converts(prefix + name)]

    def is_converted(self, index: int, name: str) -> bool:
        """Whether the parameter of that name in layer `index` is a weight that is packed."""
        linear, _, kind = name.rpartition(".")
        return kind == "weight" and linear in self.converted(index)

    def not_converted(self) -> list[str]:
        """Full names of the linears in the layers that stay as they are, and of routers where the format names them."""
        model, names = self._model, []
        for index in range(model.layers):
            prefix = model.layer_prefix(index)
            names += [prefix + name for name in model.linears(index) if not self._converts(prefix + name)]
            names += [prefix + name for name in model.ignored_linears(index)]
            if self._layout.names_linears:
                names += [prefix + name for name in model.always_float(index)]
            if self._layout.names_routers:
                names += [prefix + name for name in self._routers(index)]
        return names

    def _routers(self, index: int) -> list[str]:
        """The modules of layer `index` that have a matrix and are no linear."""
        model = self._model
        linears = {*model.linears(index), *model.ignored_linears(index), *model.always_float(index)}
        owners = [
            name.removesuffix(".weight")
            for name, shape in model.layer_shapes(index).items()
            if name.endswith(".weight") and len(shape) == 2
        ]
        return [owner for owner in owners if owner not in linears]

    def stored(self, index: int) -> list[str]:
        """Full names of the parameters of layer `index` in the float checkpoint."""
        prefix = self._model.layer_prefix(index)
        return [prefix + name for name in self._model.layer_shapes(index)]

    def planned(self, index: int) -> tuple[TensorShapes, list[str]]:
        """Tensors of the packed linears of layer `index` by full name, and the parameters that are kept."""
        prefix, packed = self._model.layer_prefix(index), {}
        shapes, linears = self._model.linear_shapes(index), self.converted(index)
        for linear in linears:
            rows, columns = shapes[linear]
            for kind, tensor in self._tensors(prefix + linear, rows, columns).items():
                packed[f"{prefix}{linear}.{kind}"] = tensor
        weights = {f"{linear}.weight" for linear in linears}
        kept = [prefix + name for name in self._model.layer_shapes(index) if name not in weights]
        return packed, kept

    def planned_head(self) -> TensorShapes:
        """Tensors of the head by full name, where it is packed."""
        if not self.packs_head:
            return {}
        tensors = self._tensors(HEAD, *self._model.head_shape)
        return {f"{HEAD}.{kind}": tensor for kind, tensor in tensors.items()}

    def head(self, tensors: Mapping[str, Tensor]) -> "HeadAsRead":
        """The packed head, from its tensors by full name.

        Raises:
            QuantizationError: ArtifactCorrupt where they cannot be right.
        """
        own = self._layout.of(HEAD)
        parts = {part: tensors[f"{HEAD}.{part}"] for part in self._layout.tensors}
        return HeadAsRead(own.unpack(HEAD, parts), own)

    def weights_as_read(
        self,
        index: int,
        tensors: dict[str, Tensor],
        replayed: Callable[[str, Tensor], Tensor] = lambda _, weight: weight,
    ) -> dict[str, Tensor]:
        """The parameters of layer `index` by their names in the layer, packed linears as a reader sees them.

        `tensors`, by full name, is emptied on the way. replayed: see passes.interface.LayerPass.

        Raises:
            QuantizationError: ArtifactCorrupt naming a linear whose tensors cannot be right.
        """
        layout, prefix = self._layout, self._model.layer_prefix(index)
        shapes = self._model.linear_shapes(index)
        weights: dict[str, Tensor] = {}
        for linear in self.converted(index):
            full = prefix + linear
            parts = {part: tensors.pop(f"{full}.{part}") for part in layout.tensors}
            own = layout.of(full)
            seen = own.as_read(own.unpack(full, parts))
            seen = replayed(
                linear, seen[:, : shapes[linear][1]]
            )  # a row's last word may hold more than weights
            weights[f"{linear}.weight"] = self._model.transposed(index, f"{linear}.weight", seen)
        for name in list(tensors):
            weights[name.removeprefix(prefix)] = tensors.pop(name)
        return weights

    def bits_per_weight(self, stored: Callable[[str], torch.dtype]) -> float:
        """Bits of the packed tensors for each weight in them; where none is packed, of the weights as they are stored.

        stored: full name of a tensor that is not packed -> its type.
        """
        bits = weights = 0
        packs = any(self.converted(index) for index in range(self._model.layers))
        for index in range(self._model.layers):
            shapes, prefix = self._model.linear_shapes(index), self._model.layer_prefix(index)
            for linear in self.converted(index) if packs else self._model.linears(index):
                rows, columns = shapes[linear]
                plain: TensorShapes = {linear: (stored(f"{prefix}{linear}.weight"), (rows, columns))}
                tensors = self._tensors(prefix + linear, rows, columns) if packs else plain
                weights += rows * columns
                bits += _bits(tensors)
        if self.packs_head:
            weights += math.prod(self._model.head_shape)
            bits += _bits(self.planned_head())
        return bits / weights

    def _tensors(self, name: str, rows: int, columns: int) -> TensorShapes:
        scheme = self._layout.scheme(name)
        grid = self._grid if scheme is None else replace(self._grid, group_size=scheme.group_size)
        return self._layout.of(name).tensor_shapes(rows, columns, grid.groups(columns))


def _bits(tensors: TensorShapes) -> int:
    return sum(8 * dtype.itemsize * math.prod(size) for dtype, size in tensors.values())
