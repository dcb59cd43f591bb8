"""A QuaRot artifact that carries its own code, layer by layer: run with that very code."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import Source
from quantizer.decoder.blocks import ArgumentsOf
from quantizer.decoder.layout import DecoderLayout, read_config
from quantizer.decoder.model import DecoderModel
from quantizer.formats.quarot.modeling_quarot import convert_layer

MODEL_TYPE_PREFIX = "quarot_"


class OnlineLayer:
    """A layer with rounded activations, keys and values, and online rotations."""

    def __init__(self, module: nn.Module, arguments_of: ArgumentsOf) -> None:
        self._module, self._arguments_of = module, arguments_of

    def forward(self, hidden: Tensor) -> Tensor:
        """The whole layer: [batch, tokens, width] to the same."""
        result = self._module(hidden, **self._arguments_of(hidden.shape[0], hidden.shape[1]))
        output = result[0] if isinstance(result, tuple) else result
        assert isinstance(output, Tensor)
        return output


class QuarotView:
    """An artifact of QuaRot with code of its own, as a views.View.

    Raises:
        QuantizationError: ArtifactCorrupt when something is missing or not as config.json says.
    """

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        config = read_config(source)
        settings = config.pop("quarot", None)
        if not isinstance(settings, dict):
            raise QuantizationError(Category.ARTIFACT_CORRUPT, "config.json has no quarot settings")
        plain = {key: value for key, value in config.items() if key not in ("auto_map", "architectures")}
        plain["model_type"] = str(config["model_type"]).removeprefix(MODEL_TYPE_PREFIX)
        reader = SafetensorsReader(source, broken=Category.ARTIFACT_CORRUPT)
        self.model = DecoderModel(DecoderLayout(reader, plain), device, dtype)
        self.model.layout.config.quarot = settings

    def names(self, index: int) -> list[str]:
        """The tensors of layer `index` in the checkpoint."""
        prefix = self.model.layout.layer_prefix(index)
        names = [prefix + name for name in self._layer(index)[0].state_dict()]
        missing = [name for name in names if name not in self.model.layout.reader.tensors]
        if missing:
            raise QuantizationError(Category.ARTIFACT_CORRUPT, f"the artifact lacks the tensor {missing[0]}")
        return names

    def layers(self) -> Iterator[OnlineLayer]:
        """Every decoder layer, in order; one exists at a time."""
        model = self.model
        groups = [self.names(index) for index in range(model.layout.layers)]
        for index, stored in enumerate(model.layout.reader.prefetched(groups)):
            module, arguments_of = self._layer(index)
            prefix = model.layout.layer_prefix(index)
            state = {name.removeprefix(prefix): value for name, value in stored.items()}
            yield _loaded(model, module, arguments_of, state)

    def _layer(self, index: int) -> tuple[nn.Module, ArgumentsOf]:
        return _converted(self.model, index, self.model.layout.config)


def online_layer(model: DecoderModel, index: int, config: Any, weights: dict[str, Tensor]) -> OnlineLayer:
    """Layer `index` on plain weights, by their names in it, with the code of an artifact around them.

    config: the model's, with the artifact's settings as its `quarot`.
    """
    return _loaded(model, *_converted(model, index, config), weights)


def _converted(model: DecoderModel, index: int, config: Any) -> tuple[nn.Module, ArgumentsOf]:
    """Layer `index` with the code of an artifact in it, without weights."""
    module, arguments_of = model.stock_layer(index)
    with torch.device("meta"):
        convert_layer(module, config)
    return module, arguments_of


def _loaded(
    model: DecoderModel, module: nn.Module, arguments_of: ArgumentsOf, state: dict[str, Tensor]
) -> OnlineLayer:
    """The layer with its tensors, by their names in it; plain ones are computed in the model's type."""
    plain = {name for name, _ in module.named_parameters()}
    state = {
        name: value.to(model.device, model.dtype if name in plain else value.dtype)
        for name, value in state.items()
    }
    module.load_state_dict(state, assign=True)
    return OnlineLayer(module.requires_grad_(False).eval(), arguments_of)
