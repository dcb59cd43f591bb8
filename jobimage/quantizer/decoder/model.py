"""A decoder-only model of which one layer at a time exists: real transformers modules, real weights.

Everything else stays on the meta device (shapes, no memory) or in the checkpoint: embeddings are read
row block by row block, the head in slices of the vocabulary.
"""

import importlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.reader import SafetensorsReader, TensorInfo, rows_within
from quantizer.checkpoint.source import Source, read_whole
from quantizer.decoder.architecture import Architecture, Block, find_architecture

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TABLE_BYTES = 16_000_000  # embeddings and head are read in slices of at most this size

PositionEmbeddings = tuple[Tensor, Tensor]


def read_config(source: Source) -> dict[str, Any]:
    """config.json as it lies there; ModelNotFound without one, ModelUnsupported when it is no JSON object."""
    text = read_whole(source, "config.json")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise QuantizationError(Category.MODEL_UNSUPPORTED, f"config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise QuantizationError(Category.MODEL_UNSUPPORTED, "config.json is not a JSON object")
    return config


class DecoderLayer:
    """One decoder layer, run block by block; each block in two halves (see architecture.Block).

    The closing linear of each block is taken out of its module and put behind it, so that transformers'
    own forward of the module computes exactly the input of that linear.
    """

    def __init__(self, module: nn.Module, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self._module = module
        self._outputs: dict[str, nn.Linear] = {}
        for block in self.blocks:
            parent = module.get_submodule(block.module)
            self._outputs[block.output_name] = parent.get_submodule(block.output)  # type: ignore[assignment]
            setattr(parent, block.output, nn.Identity())

    def linear(self, name: str) -> nn.Linear:
        """A linear by its name in the layer."""
        found = self._outputs.get(name) or self._module.get_submodule(name)
        assert isinstance(found, nn.Linear), name
        return found

    def block_input(self, block: Block, hidden: Tensor) -> Tensor:
        """norm(h), what the block's input linears read: [batch, tokens, width]."""
        result: Tensor = self._module.get_submodule(block.norm)(hidden)
        return result

    def block_core(self, block: Block, normed: Tensor, positions: PositionEmbeddings) -> Tensor:
        """What the block's closing linear reads: [batch, tokens, inner width]. Attention is causal."""
        module = self._module.get_submodule(block.module)
        if block.kind == "attention":
            inner: Tensor = module(normed, position_embeddings=positions, attention_mask=None)[0]
            return inner
        return module(normed)  # type: ignore[no-any-return]

    def block_close(self, block: Block, hidden: Tensor, inner: Tensor) -> Tensor:
        """h + output(inner): the hidden states after the block."""
        result: Tensor = hidden + self._outputs[block.output_name](inner)
        return result

    def forward(self, hidden: Tensor, positions: PositionEmbeddings) -> Tensor:
        """The whole layer."""
        for block in self.blocks:
            inner = self.block_core(block, self.block_input(block, hidden), positions)
            hidden = self.block_close(block, hidden, inner)
        return hidden


class DecoderModel:
    """A checkpoint's decoder, layer by layer.

    Args:
        source, reader: the model's files and tensors.
        device: where layers run.
        dtype: computation dtype of weights and activations; float32 on a CPU.
        config: config.json, when it is already read (a quantized artifact's without its
            quantization_config).

    Raises:
        QuantizationError: ModelUnsupported (with what was found and what is supported) for an unknown
            architecture or dtype, an already quantized model, or tensors that do not fit the config.
    """

    def __init__(
        self,
        source: Source,
        reader: SafetensorsReader,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.raw_config = read_config(source) if config is None else config
        self.architecture: Architecture = find_architecture(self.raw_config)
        if found := self.raw_config.get("quantization_config"):
            method = found.get("quant_method", "unknown") if isinstance(found, dict) else found
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"the model is already quantized (quant_method {method})",
                "Start from the model's fp16, bf16 or fp32 checkpoint.",
            )
        self.reader, self.device, self.dtype = reader, device, dtype
        self.config = self._make_config()
        self._classes = importlib.import_module(self.architecture.module)
        self.layers = int(self.config.num_hidden_layers)
        self.vocabulary = int(self.config.vocab_size)
        self.max_positions = int(self.config.max_position_embeddings)
        self.width = int(self.config.hidden_size)
        rotary = getattr(self._classes, self.architecture.rotary_class)
        self._rotary: nn.Module = rotary(config=self.config).to(device)

    def layer_prefix(self, index: int) -> str:
        """Dotted name of layer `index` in the checkpoint, with the closing dot."""
        return f"{self.architecture.layers}.{index}."

    def layer_shapes(self, index: int = 0) -> dict[str, tuple[int, ...]]:
        """Names (in the layer) and shapes of the parameters that layer `index` has by the config."""
        return {name: tuple(value.shape) for name, value in self._meta_layer(index).state_dict().items()}

    def layer(self, index: int, weights: dict[str, Tensor]) -> DecoderLayer:
        """Layer `index` on real weights: `weights` by their names in the layer, moved to device and dtype."""
        module = self._meta_layer(index)
        state = {name: value.to(device=self.device, dtype=self.dtype) for name, value in weights.items()}
        module.load_state_dict(state, strict=True, assign=True)
        module.requires_grad_(False).eval()
        return DecoderLayer(module, self.architecture.blocks)

    def positions(self, length: int) -> PositionEmbeddings:
        """Rotary embeddings of tokens 0 .. length-1."""
        ids = torch.arange(length, device=self.device).unsqueeze(0)
        probe = torch.empty(0, device=self.device, dtype=self.dtype)
        cos, sin = self._rotary(probe, position_ids=ids)
        return cos, sin

    def final_norm(self) -> nn.Module:
        """The norm before the head, on its real weights."""
        norm: nn.Module = getattr(self._classes, self.architecture.norm_class)(
            self.width, eps=self.config.rms_norm_eps
        )
        weight = self.reader.tensor(f"{self.architecture.final_norm}.weight")
        norm.load_state_dict({"weight": weight})
        return norm.requires_grad_(False).to(device=self.device, dtype=self.dtype)

    def head_name(self) -> str:
        """The tensor that the head is: its own, or the embedding when they are tied."""
        own = f"{self.architecture.head}.weight"
        tied = bool(getattr(self.config, "tie_word_embeddings", False)) or own not in self.reader.tensors
        return f"{self.architecture.embedding}.weight" if tied else own

    def table_slices(self, name: str, step: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """A large table (embedding, head) in slices of rows: (first row, rows in computation dtype).

        step: rows of a slice; by default what fits into TABLE_BYTES.
        """
        info = self.reader.tensors[name]
        for first, part in self.reader.slices(name, step or rows_within(info, TABLE_BYTES)):
            yield first, part.to(device=self.device, dtype=self.dtype)

    def embed(self, tokens: Sequence[Tensor]) -> Iterator[Tensor]:
        """Hidden states of each batch of token ids [batch, tokens] before the first layer.

        The rows that are needed are gathered once from a slice-wise read of the embedding.
        """
        used = torch.unique(torch.cat([batch.reshape(-1) for batch in tokens]))
        gathered = torch.empty((len(used), self.width), dtype=self.dtype, device=self.device)
        for first, rows in self.table_slices(f"{self.architecture.embedding}.weight"):
            inside = (used >= first) & (used < first + rows.shape[0])
            gathered[inside.to(self.device)] = rows[(used[inside] - first).to(self.device)]
        for batch in tokens:
            yield gathered[torch.searchsorted(used, batch).to(self.device)]

    def check_tensors(self) -> list[str]:
        """Compares the checkpoint with the config; returns the tensors that will be left out (ignored ones).

        Raises ModelUnsupported for a tensor that is missing, has another shape or dtype, or is unknown.
        """
        expected: dict[str, tuple[int, ...]] = {
            f"{self.architecture.embedding}.weight": (self.vocabulary, self.width),
            f"{self.architecture.final_norm}.weight": (self.width,),
        }
        head = f"{self.architecture.head}.weight"
        tied = bool(getattr(self.config, "tie_word_embeddings", False))
        if not tied or head in self.reader.tensors:
            expected[head] = (self.vocabulary, self.width)
        for index in range(self.layers):
            prefix = self.layer_prefix(index)
            expected |= {prefix + name: shape for name, shape in self.layer_shapes(index).items()}
        for name, shape in expected.items():
            self._check_tensor(name, shape, self.reader.tensors.get(name))
        extra = sorted(set(self.reader.tensors) - set(expected))
        unknown = [name for name in extra if not name.endswith(self.architecture.ignored or ("\0",))]
        if unknown:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"the checkpoint has {len(unknown)} tensors that a {self.architecture.model_type} model with "
                f"{self.layers} layers does not have, the first is {unknown[0]}",
            )
        return extra

    def _check_tensor(self, name: str, shape: tuple[int, ...], found: TensorInfo | None) -> None:
        if found is None:
            raise QuantizationError(Category.MODEL_UNSUPPORTED, f"the checkpoint lacks the tensor {name}")
        if found.shape != shape:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"{name} has shape {list(found.shape)}, config.json makes it {list(shape)}",
            )
        if found.dtype not in WEIGHT_DTYPES:
            supported = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHT_DTYPES)
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"{name} has dtype {str(found.dtype).removeprefix('torch.')}; supported: {supported}",
            )

    def _make_config(self) -> PretrainedConfig:
        fields = {key: value for key, value in self.raw_config.items() if key != "model_type"}
        try:
            config = AutoConfig.for_model(self.architecture.model_type, **fields)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED, f"config.json is not usable: {error}"
            ) from error
        config._attn_implementation = "sdpa"
        return config

    def _meta_layer(self, index: int) -> nn.Module:
        with torch.device("meta"):
            module: nn.Module = getattr(self._classes, self.architecture.layer_class)(self.config, index)
        return module
