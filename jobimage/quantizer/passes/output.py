"""What is written of a model: every tensor with type and shape before one is computed, and the files beside them."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.reader import rows_within
from quantizer.checkpoint.side_files import (
    as_copied,
    json_file,
    quantized_config,
    side_files,
    with_dtype,
    without_code,
)
from quantizer.checkpoint.writer import PlannedTensor, ShardWriter
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import TABLE_BYTES
from quantizer.formats.interface import Outside
from quantizer.passes.data_type import converted
from quantizer.passes.interface import FinishedLayer, LayerPass
from quantizer.passes.quantized import QuantizedLayers

logger = logging.getLogger(__name__)


class Output:
    """The plan of what a pass writes of a model, and the types that tensors are loaded and stored in.

    layer_pass: bound to the model, whose tensors were checked.
    """

    def __init__(self, layout: DecoderLayout, layer_pass: LayerPass, quantized: QuantizedLayers) -> None:
        self.layout, self.reader, self.layer_pass, self.quantized = (
            layout,
            layout.reader,
            layer_pass,
            quantized,
        )
        self.transform = layer_pass.transform
        self._infos = {**self.reader.tensors, **layout.wholes.tensors}
        extra = layout.check_tensors()
        self._extra = {*extra.left_out, *extra.unused, *extra.beside}
        self.copied = (*extra.beside, *(() if self.transform.changes_hidden else extra.unused))
        """Tensors that the decoder of text does not use, and that are copied all the same."""

    # the plan

    @property
    def left_out(self) -> list[str]:
        """Tensors of the checkpoint that are not written."""
        return sorted(self._extra - set(self.copied))

    @property
    def stored_dtype(self) -> torch.dtype:
        """In which a reader computes."""
        return self.layer_pass.dtype or self.reader.dtype

    @property
    def stored_in(self) -> str:
        """The types of all that is not packed, in config.json's words."""
        return word(self.layer_pass.dtype) if self.layer_pass.dtype else self.reader.dtypes

    def groups(self) -> list[list[PlannedTensor]]:
        """Every tensor: embedding, layers, norm and head, in the order of the checkpoint; a group stays together."""
        tables = [[self.tensor(name)] for name in self.tables()]
        layers = [self.layer(index) for index in range(self.layout.layers)]
        infos = [self.reader.tensors[name] for name in self.copied]
        head = [
            PlannedTensor(name, dtype, shape)
            for name, (dtype, shape) in self.quantized.planned_head().items()
        ]
        return [
            *tables,
            *layers,
            head,
            *([PlannedTensor(info.name, info.dtype, info.shape)] for info in infos),
        ]

    def layer(self, index: int) -> list[PlannedTensor]:
        """The tensors of layer `index`."""
        packed, kept = self.quantized.planned(index)
        if not self.layer_pass.packs:
            kept = list(dict.fromkeys(map(self._written_as, kept)))
        elif apart := [name for name in kept if name.endswith(".weight") and self.layout.wholes.of(name)]:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{apart[0]} lies in one tensor with those of all experts; left as it is, it would be stored by "
                "itself, where no reader looks for it",
                "Quantize all linears of all experts: leave modules_to_not_convert and inside_layer_modules out, and "
                "write bits below 16.",
            )
        tensors = [PlannedTensor(name, dtype, shape) for name, (dtype, shape) in packed.items()]
        divisors = self.divisors(index).items()
        tensors += [PlannedTensor(name, value.dtype, tuple(value.shape)) for name, value in divisors]
        return tensors + [self.tensor(name) for name in kept]

    def tensor(self, name: str) -> PlannedTensor:
        """A tensor that is not packed."""
        info = self._infos[self.transform.added.get(name, name)]
        wanted = self.layer_pass.dtype if info.dtype.is_floating_point else None
        return PlannedTensor(name, wanted or info.dtype, info.shape)

    def _written_as(self, name: str) -> str:
        """The tensor that a parameter of a layer is written in, where nothing is packed: as the input holds it."""
        whole = self.layout.wholes.of(name)
        if whole is None:
            return name
        if not self.layout.wholes.filled(whole.name):
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"{whole.name} holds more than the experts' weights, and it is not known what",
                "Use a GptqQuantizer or an AutoAWQQuantizer, or w_bits below 16.",
            )
        return whole.name

    def joined(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a layer as they are written; `tensors` is changed."""
        if not self.layer_pass.packs:
            self.layout.wholes.join(tensors)
        return tensors

    def apart(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a written layer, those of each expert by themselves; `tensors` is changed."""
        self.layout.wholes.cut(tensors)
        return tensors

    def divisors(self, index: int) -> dict[str, Tensor]:
        """See LayerPass.divisors."""
        lengths = self.layer_pass.divisors(self.layout, index)
        return {name: torch.ones(length, dtype=torch.float16) for name, length in lengths.items()}

    def fits(self, index: int, layer: FinishedLayer, computed_in: torch.dtype) -> bool:
        """Whether a layer of an earlier attempt has the tensors that are to be written, computed in that type."""
        found = {
            PlannedTensor(name, value.dtype, tuple(value.shape)) for name, value in layer.tensors.items()
        }
        fits = found == set(self.layer(index)) and layer.calibration_dtype == computed_in
        if not fits:
            logger.warning("layer %d is computed again: its saved state does not fit this run", index)
        return fits

    def tables(self) -> list[str]:
        """Tensors outside the decoder layers that are not packed."""
        layers = f"{self.layout.layers_name}."
        names = [name for name in self.reader.tensors if not name.startswith(layers)]
        packed = {self.layout.own_head_name()} if self.quantized.packs_head else set[str]()
        return [name for name in names if name not in self._extra | packed] + list(self.transform.added)

    def bits_per_weight(self) -> float:
        """See QuantizedLayers.bits_per_weight."""
        return self.quantized.bits_per_weight(lambda name: self.tensor(name).dtype)

    def own_head_bytes(self) -> int:
        """Of the tensors that the input has not."""
        return sum(self.tensor(name).length for name in self.transform.added)

    # types

    def loaded(self, name: str, read: Tensor, *, part: bool = False) -> Tensor:
        """A tensor as it was read, in the type that the pass loads the model in."""
        if not all_finite(read):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{name} has values that are not finite",
                "The model's weights are damaged; download them again.",
            )
        if self.layer_pass.dtype in (None, read.dtype) or not read.is_floating_point():
            return read
        return converted(name, read, self.layer_pass.dtype, self.layer_pass.wider_dtype, part=part)

    def loaded_layer(self, index: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a layer by their names in it; `tensors` is emptied, so that none exists twice."""
        prefix = self.layout.layer_prefix(index)
        weights = {name.removeprefix(prefix): self.loaded(name, tensors.pop(name)) for name in list(tensors)}
        linears = self.layout.linears(index)
        return {
            name: value if name.removesuffix(".weight") in linears else self.stored(prefix + name, value)
            for name, value in self.transform.layer(index, weights).items()
        }

    def finer(self, index: int, weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Weights of a layer that are to be rounded, by their linear, which a type cannot hold."""
        return {
            name.removesuffix(".weight"): value
            for name, value in weights.items()
            if torch.promote_types(value.dtype, dtype) != dtype and self.quantized.is_converted(index, name)
        }

    def stored(self, name: str, value: Tensor, *, part: bool = False) -> Tensor:
        """A tensor that is not packed, in the type that it is stored in."""
        return converted(name, value, self.tensor(name).dtype, self.layer_pass.wider_dtype, part=part)

    # what no layer decides

    def write_outside(self, writer: ShardWriter) -> None:
        """Writes what lies outside the layers: embedding, norms and head, and tensors that are only copied."""
        for name in self.tables():
            offset = 0
            for rows in self._table(name):
                writer.write_part(name, offset, rows)
                offset += rows.nbytes
        for name in self.copied:  # in its own type, whatever its values are
            for at, part in self.reader.pieces(name, TABLE_BYTES):
                writer.write_part(name, at, part)

    def head_slices(self, step: int) -> Iterator[Tensor]:
        """The head's own weight, so many rows at a time, in the type that the pass loads the model in."""
        name = self.layout.own_head_name()
        for _, read in self.reader.slices(name, step):
            yield self.loaded(name, read, part=True)

    def _table(self, name: str) -> Iterator[Tensor]:
        """Slices of rows of a tensor outside the layers, as they are stored."""
        source = self.transform.added.get(name, name)
        for _, read in self.reader.slices(source, rows_within(self.reader.tensors[source], TABLE_BYTES)):
            rows = self.transform.outside(name, self.loaded(source, read, part=True))
            yield self.stored(name, rows, part=True)

    def _quantization(self) -> dict[str, object]:
        """What config.json says under quantization_config."""
        skeleton, left_out = self.layout.skeleton, self.quantized.not_converted()
        if not skeleton.beside:
            return self.layer_pass.format.quantization_config(left_out)
        stored, own = f"{self.layout.layers_name}.", f"{skeleton.layers_name}."
        both = dict.fromkeys([*left_out, *(own + name.removeprefix(stored) for name in left_out)])
        config = self.layer_pass.format.quantization_config(list(both))
        linears = skeleton.linears_outside(head=not self.quantized.packs_head)
        inside = tuple(f"{name}." for name in skeleton.beside)
        alone = [name for name in linears if not name.startswith(inside) and name not in skeleton.beside]
        outside = Outside(skeleton.layers_name, (*skeleton.beside, *alone), linears)
        return self.layer_pass.format.with_outside(config, outside)

    def files(self) -> dict[str, bytes]:
        """The files beside the tensors by their names."""
        config, layout = without_code(self.layout.config_of_copy()), self.layer_pass.format
        if self.layer_pass.dtype is not None:
            config = with_dtype(config, self.layer_pass.dtype)
        config = self.transform.config(config)
        files = {"config.json": json_file(config)}
        quantization = self._quantization() if self.layer_pass.packs else {}
        if quantization:  # transformers takes an empty one for a format that it does not know
            files["config.json"] = quantized_config(config, quantization)
            files |= layout.side_files(quantization)
        for name in side_files(self.reader.source):
            files[name] = as_copied(self.reader.source, name)
        return files | self.transform.files()
