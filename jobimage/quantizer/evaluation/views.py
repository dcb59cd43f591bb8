"""A checkpoint as layers of plain weights, whatever lies on disk: float, GPTQ, or rounded on the way."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import Source
from quantizer.decoder.architecture import find_architecture
from quantizer.decoder.model import DecoderLayer, DecoderModel, read_config
from quantizer.formats import gptq as gptq_format
from quantizer.passes.gptq import GptqConfig
from quantizer.passes.grid import round_to_nearest


class View(Protocol):
    """A model whose layers can be had one after another."""

    model: DecoderModel

    def layers(self) -> Iterator[DecoderLayer]:
        """Every decoder layer on plain weights, in order; one exists at a time."""
        ...


def _stored_groups(model: DecoderModel) -> list[list[str]]:
    return [
        [model.layer_prefix(index) + name for name in model.layer_shapes(index)]
        for index in range(model.layers)
    ]


class FloatView:
    """An unquantized checkpoint."""

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.model = DecoderModel(source, SafetensorsReader(source), device, dtype)
        self.model.check_tensors()

    def layers(self) -> Iterator[DecoderLayer]:
        """See View."""
        for index, stored in enumerate(self.model.reader.prefetched(_stored_groups(self.model))):
            prefix = self.model.layer_prefix(index)
            yield self.model.layer(index, self.change({n.removeprefix(prefix): v for n, v in stored.items()}))

    def change(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a layer as the view shows them."""
        return weights


class RoundedView(FloatView):
    """An unquantized checkpoint with its linears rounded to nearest on the way: the yardstick of a pass."""

    def __init__(
        self, source: Source, config: GptqConfig, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(source, device, dtype)
        self._config = config

    def change(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rounds every linear with the grid of the config."""
        changed = dict(weights)
        for name in self.model.architecture.linears:
            weight = weights[f"{name}.weight"]
            width = self._config.group_width(weight.shape[1])
            integers, scales, zeros = round_to_nearest(weight, width, self._config.rule)
            group_of = torch.arange(weight.shape[1]) // width
            changed[f"{name}.weight"] = gptq_format.as_read(integers, scales, zeros, group_of)
        return changed


class GptqView:
    """A GPTQ checkpoint (v1), read back from what was written.

    Raises:
        QuantizationError: ArtifactCorrupt when something is missing, damaged or not as config.json says.
    """

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        config: dict[str, Any] = read_config(source)
        quantization = config.pop("quantization_config", None)
        if not isinstance(quantization, dict) or quantization.get("quant_method") != "gptq":
            raise QuantizationError(Category.ARTIFACT_CORRUPT, "config.json does not say quant_method gptq")
        if quantization.get("checkpoint_format", "gptq") != "gptq":
            raise QuantizationError(
                Category.ARTIFACT_CORRUPT,
                f"checkpoint_format is {quantization['checkpoint_format']}; gptq was expected",
            )
        find_architecture(config)
        self._bits = int(quantization["bits"])
        reader = SafetensorsReader(source, broken=Category.ARTIFACT_CORRUPT)
        self.model = DecoderModel(source, reader, device, dtype, config)
        self._linears = self.model.architecture.linears

    def names(self, index: int) -> list[str]:
        """The tensors of layer `index` in the checkpoint."""
        prefix = self.model.layer_prefix(index)
        names: list[str] = []
        for name in self.model.layer_shapes(index):
            linear, _, kind = name.rpartition(".")
            if kind == "weight" and linear in self._linears:
                names += [f"{prefix}{linear}.{part}" for part in gptq_format.TENSORS]
            else:
                names.append(prefix + name)
        missing = [name for name in names if name not in self.model.reader.tensors]
        if missing:
            raise QuantizationError(Category.ARTIFACT_CORRUPT, f"the artifact lacks the tensor {missing[0]}")
        return names

    def layers(self) -> Iterator[DecoderLayer]:
        """See View."""
        groups = [self.names(index) for index in range(self.model.layers)]
        for index, stored in enumerate(self.model.reader.prefetched(groups)):
            prefix = self.model.layer_prefix(index)
            weights = {name.removeprefix(prefix): value for name, value in stored.items()}
            for linear in self._linears:
                parts = {part: weights.pop(f"{linear}.{part}") for part in gptq_format.TENSORS}
                back = gptq_format.unpack(prefix + linear, parts, self._bits)
                weights[f"{linear}.weight"] = gptq_format.as_read(
                    back.integers, back.scales, back.zeros, back.group_of
                )
            yield self.model.layer(index, weights)
