"""A decoder-only model of which one layer at a time exists: real transformers modules, real weights.

Everything else stays on the meta device (shapes, no memory) or in the checkpoint: of the embedding the rows
that occur are read, the head comes in slices of the vocabulary. The small modules outside the layers (norms,
learned positions) are held by the context (context.py).
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantization_api.failures import Category
from quantizer.boundary.bounded_json import read_object
from quantizer.boundary.reading import reading
from quantizer.checkpoint.reader import SafetensorsReader, TensorInfo, rows_within
from quantizer.checkpoint.source import Source, read_whole
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import ModuleNames, Stage
from quantizer.decoder.blocks import ArgumentsOf, BlockLayer, load_weights
from quantizer.decoder.context import ModelContext, compute_buffers
from quantizer.decoder.folding import FoldPlace, fold_places
from quantizer.decoder.generic import GenericLayer, GenericWalk
from quantizer.decoder.pattern import LayerPattern
from quantizer.decoder.skeleton import Skeleton, check_counts, find_architecture, make_config, unsupported
from quantizer.decoder.walk import BlockWalk, LayerWalk, StoreFactory

MAX_CONFIG_BYTES = 4_000_000
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TRIED_TOKENS = 2
TABLE_BYTES = 4_000_000  # embeddings and head are read in slices of at most this size
COMPUTED = (r"rotary_emb\.inv_freq$",)  # tensors of old checkpoints that are computed, not stored, today
FUSED_EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")

DecoderLayer = BlockLayer | GenericLayer
"""One decoder layer on real weights."""


def read_config(source: Source) -> dict[str, Any]:
    """config.json as it lies there; ModelNotFound without one, ModelUnsupported when it is no JSON object."""
    data = read_whole(source, "config.json", MAX_CONFIG_BYTES)
    return read_object(data, Category.MODEL_UNSUPPORTED, "config.json", limit=MAX_CONFIG_BYTES)


@dataclass(frozen=True)
class _LayerFacts:
    """What is asked about a layer again and again; see the methods of DecoderModel."""

    shapes: dict[str, tuple[int, ...]]
    stages: tuple[Stage, ...]
    linear_shapes: dict[str, tuple[int, int]]


class DecoderModel:
    """A checkpoint's decoder, layer by layer.

    Args:
        source, reader: the model's files and tensors.
        device: where layers run.
        dtype: computation dtype of weights and activations; float32 on a CPU.
        config: config.json, when it is already read (a quantized artifact's without its
            quantization_config).
        modules: names of the modules, for an architecture that is not in the table.

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
        modules: ModuleNames | None = None,
    ) -> None:
        self.raw_config = read_config(source) if config is None else config
        known = find_architecture(self.raw_config)
        if found := self.raw_config.get("quantization_config"):
            method = found.get("quant_method", "unknown") if isinstance(found, dict) else found
            raise unsupported(
                f"the model is already quantized (quant_method {method})",
                "Start from the model's fp16, bf16 or fp32 checkpoint.",
            )
        self.reader, self.device, self.dtype = reader, device, dtype
        with reading(Category.MODEL_UNSUPPORTED, "config.json"):
            config_of_model = make_config(self.raw_config, known)
            check_counts(config_of_model, len(reader.tensors))
            self._skeleton = Skeleton(config_of_model, known, modules)
            self.config, self.architecture = self._skeleton.config, self._skeleton.architecture
            self.layers = len(self._skeleton.layers)
            self.vocabulary = int(self.config.vocab_size)
            self.width = int(self.config.hidden_size)
            positions = getattr(self.config, "max_position_embeddings", None)
            self.max_positions = int(positions or self.raw_config.get("seq_length") or sys.maxsize)
        # some checkpoints (gpt2's, bloom's) were saved without the head, so names lack the model's prefix
        prefixed = f"{self._skeleton.layers_name}.0."
        self._bare = not any(name.startswith(prefixed) for name in reader.tensors) and any(
            name.startswith(self.architecture.layers + ".0.") for name in reader.tensors
        )
        self._facts: dict[int, _LayerFacts] = {}
        self._last_pattern: tuple[int, LayerPattern] | None = None
        self._context: ModelContext | None = None

    @property
    def model_type(self) -> str:
        """The architecture in config.json's word."""
        return self.architecture.model_type

    @property
    def windowed(self) -> bool:
        """Whether layers attend to the last tokens only, within fewer than the model has positions."""
        window = getattr(self.config, "sliding_window", None)
        return window is not None and int(window) < self.max_positions

    # names

    def stored_name(self, name: str) -> str:
        """The name in the checkpoint of a module or tensor of the model."""
        other, head = self.architecture.head_as, self._skeleton.head_name
        if other and f"{other}.weight" in self.reader.tensors and name.startswith(f"{head}."):
            return other + name.removeprefix(head)
        return name.removeprefix(f"{self._skeleton.prefix}.") if self._bare else name

    @property
    def layers_name(self) -> str:
        """Dotted name of the list of layers in the checkpoint."""
        return self.stored_name(self._skeleton.layers_name)

    def layer_prefix(self, index: int) -> str:
        """Dotted name of layer `index` in the checkpoint, with the closing dot."""
        return f"{self.layers_name}.{index}."

    def embedding_name(self) -> str:
        """The tensor that the token embedding is."""
        return self.stored_name(f"{self._skeleton.embedding_name}.weight")

    def own_head_name(self) -> str:
        """The tensor that a head of its own is, or would be."""
        return self.stored_name(f"{self._skeleton.head_name}.weight")

    def head_name(self) -> str:
        """The tensor that the head is: its own, or the embedding when they are tied."""
        own = self.own_head_name()
        return self.embedding_name() if self._tied() or own not in self.reader.tensors else own

    def final_norm_name(self) -> str | None:
        """Dotted name of the norm before the head; None on the generic path, which does not know it."""
        name = self.architecture.final_norm
        return self.stored_name(f"{self._skeleton.prefix}.{name}") if name else None

    def outside_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters outside the layers, but for token embedding and head."""
        return {self.stored_name(name): shape for name, shape in self._skeleton.outside_shapes.items()}

    def needed_outside(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all that the checkpoint must have outside the layers; a tied head is not among it."""
        needed = self.outside_shapes()
        needed[self.embedding_name()] = (self.vocabulary, self.width)
        if not self._tied() or self.own_head_name() in self.reader.tensors:
            needed[self.own_head_name()] = (self.vocabulary, self.width)
        return needed

    # layers

    def layer_shapes(self, index: int = 0) -> dict[str, tuple[int, ...]]:
        """Names (in the layer) and shapes, as the checkpoint has them, of the parameters of layer `index`."""
        return dict(self._layer_facts(index).shapes)

    def stages(self, index: int = 0) -> tuple[Stage, ...]:
        """The linears of layer `index`, stage by stage; layers may differ (experts in some)."""
        return self._layer_facts(index).stages

    def linears(self, index: int = 0) -> tuple[str, ...]:
        """All linears of layer `index` that a pass works on, in execution order."""
        return tuple(self._layer_facts(index).linear_shapes)

    def ignored_linears(self, index: int = 0) -> tuple[str, ...]:
        """Linears of layer `index` that no pass works on, since the names of modules that were given lack them."""
        return self._pattern(index).ignored

    def linear_shapes(self, index: int = 0) -> dict[str, tuple[int, int]]:
        """(N, K) of each of them: outputs, inputs; whatever the checkpoint's orientation."""
        return dict(self._layer_facts(index).linear_shapes)

    def transposed(self, index: int, name: str, weight: Tensor) -> Tensor:
        """A parameter of layer `index` between the checkpoint's orientation and [N, K], either way."""
        return self._pattern(index).transposed(name, weight)

    def folds(self, index: int = 0) -> tuple[FoldPlace, ...]:
        """Where scales of input channels can be folded away in layer `index`; empty on the generic path."""
        pattern = self._pattern(index)
        folds = self.architecture.sparse_folds if pattern.sparse else self.architecture.folds
        return fold_places(folds, pattern, self.config, self.architecture.norm)

    def stock_layer(self, index: int) -> tuple[nn.Module, ArgumentsOf]:
        """transformers' own layer `index` on the meta device, a copy; and what its forward takes beside states."""
        pattern = self._pattern(index)
        return pattern.fresh(), lambda batch, tokens: self._whole().arguments(index, batch, tokens)

    def layer(self, index: int, weights: dict[str, Tensor]) -> DecoderLayer:
        """Layer `index` on real weights: `weights` by their names in the layer, as the checkpoint has them.

        They are moved to device and dtype; the mapping is emptied on the way, so that none exists twice.
        """
        pattern = self._pattern(index)
        module = pattern.fresh()
        load_weights(
            module,
            weights,
            lambda name, value: pattern.transposed(name, value.to(device=self.device, dtype=self.dtype)),
        )
        compute_buffers(self._skeleton.causal, module, self.device)

        def arguments_of(batch: int, tokens: int) -> Any:
            return self._whole().arguments(index, batch, tokens)

        if not pattern.blocks:
            return GenericLayer(module, pattern.stages, arguments_of)
        parallel = self.architecture.parallel is not None and bool(
            getattr(self.config, self.architecture.parallel)
        )
        return BlockLayer(module, pattern.blocks, pattern.stages, parallel, arguments_of)

    def walk(
        self,
        index: int,
        weights: dict[str, Tensor],
        hidden: ActivationStore,
        store_factory: StoreFactory,
        *,
        wants_output: bool = True,
    ) -> LayerWalk:
        """Layer `index` over all batches of `hidden`; see walk.LayerWalk. `weights` as for `layer`.

        wants_output: without it `hidden` is not to become the layer's output, which nobody reads after the last one.
        """
        layer = self.layer(index, weights)
        if isinstance(layer, BlockLayer):
            return BlockWalk(layer, hidden, store_factory, wants_output)
        return GenericWalk(layer, hidden, wants_output)

    # before and behind the layers

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
        if not tokens:
            return
        used = torch.unique(torch.cat([batch.reshape(-1) for batch in tokens]))
        gathered = torch.empty((len(used), self.width), dtype=self.dtype, device=self.device)
        for first, rows in self.table_slices(self.embedding_name()):
            inside = (used >= first) & (used < first + rows.shape[0])
            gathered[inside.to(self.device)] = rows[(used[inside] - first).to(self.device)]
        for batch in tokens:
            yield self._whole().embed(gathered, torch.searchsorted(used, batch))

    def final(self, hidden: Tensor) -> Tensor:
        """What the head reads (the final norm) of the last layer's output [batch, tokens, width]."""
        return self._whole().final(hidden)

    def logits(self, read: Tensor, first: int, rows: Tensor) -> Tensor:
        """Logits [batch, tokens, rows] of vocabulary entries first .. first + rows.

        read [batch, tokens, width]: from `final`. rows [rows, width]: that slice of the head (`head_name`).
        Soft caps and scalings of logits are the model's own.
        """
        return self._whole().logits(read, first, rows)

    # the checkpoint against the config

    def check_tensors(self) -> list[str]:
        """Compares the checkpoint with the config; returns the tensors that will be left out (computed ones).

        Raises ModelUnsupported for a tensor that is missing, has another shape or dtype, or is unknown.
        """
        fused = [name for name in self.reader.tensors if name.endswith(FUSED_EXPERTS)]
        if fused and self.architecture.experts:
            raise unsupported(
                f"the checkpoint holds the experts of a layer in one fused tensor ({fused[0]}); "
                "experts with a linear each are supported",
                "Save the model again with save_pretrained of transformers 5, which writes a linear for each expert.",
            )
        with reading(Category.MODEL_UNSUPPORTED, "config.json"):
            expected = self.needed_outside()
            for index in range(self.layers):
                prefix = self.layer_prefix(index)
                expected |= {prefix + name: shape for name, shape in self._layer_facts(index).shapes.items()}
        for name, shape in expected.items():
            self._check_tensor(name, shape, self.reader.tensors.get(name))
        extra = sorted(set(self.reader.tensors) - set(expected))
        computed = (*COMPUTED, *(self._skeleton.causal._keys_to_ignore_on_load_unexpected or ()))
        unknown = [name for name in extra if not any(re.search(pattern, name) for pattern in computed)]
        if unknown:
            raise unsupported(
                f"the checkpoint has {len(unknown)} tensors that a {self.architecture.model_type} model with "
                f"{self.layers} layers does not have, the first is {unknown[0]}",
            )
        return extra

    def try_out(self) -> None:
        """Sends two tokens through the model as far as that needs no weights of a layer.

        Values of the config that only a forward uses (of rotary embeddings, masks, soft caps) are then found to be
        of no use before work begins. A layer is run on the meta device, without memory.

        Raises:
            QuantizationError: ModelUnsupported.
        """
        with reading(Category.MODEL_UNSUPPORTED, "config.json"), torch.inference_mode():
            whole = self._whole()
            arguments = whole.arguments(0, 1, TRIED_TOKENS)
            hidden = torch.zeros((1, TRIED_TOKENS, self.width), dtype=self.dtype, device=self.device)
            whole.logits(whole.final(hidden), 0, hidden[0, :1])
            pattern = self._pattern(0)
            if not pattern.sparse:  # experts are chosen by values, which the meta device has not
                pattern.fresh()(
                    hidden.to("meta"), **{name: _on_meta(item) for name, item in arguments.items()}
                )

    def _check_tensor(self, name: str, shape: tuple[int, ...], found: TensorInfo | None) -> None:
        if found is None:
            raise unsupported(f"the checkpoint lacks the tensor {name}")
        if found.shape != shape:
            raise unsupported(f"{name} has shape {list(found.shape)}, config.json makes it {list(shape)}")
        if found.dtype not in WEIGHT_DTYPES:
            supported = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHT_DTYPES)
            raise unsupported(
                f"{name} has dtype {str(found.dtype).removeprefix('torch.')}; supported: {supported}"
            )

    def _tied(self) -> bool:
        return bool(getattr(self.config, "tie_word_embeddings", False))

    def _pattern(self, index: int) -> LayerPattern:
        """Of one layer at a time: it is asked for again and again, and a pattern of many experts is slow to make."""
        if self._last_pattern is None or self._last_pattern[0] != index:
            made = LayerPattern(self._skeleton.layers[index], self.architecture, self.config)
            self._last_pattern = (index, made)
        return self._last_pattern[1]

    def _layer_facts(self, index: int) -> _LayerFacts:
        if index not in self._facts:
            pattern = self._pattern(index)
            linears: dict[str, tuple[int, int]] = {}
            for stage in pattern.stages:
                for name in stage.names:
                    rows, columns = pattern.transposed_shape(f"{name}.weight")
                    linears[name] = (rows, columns)
            self._facts[index] = _LayerFacts(pattern.shapes, pattern.stages, linears)
        return self._facts[index]

    def _whole(self) -> ModelContext:
        """The model around the layers, made when it is first needed."""
        if self._context is None:

            def parameter(name: str) -> Tensor:
                stored = self.stored_name(name)
                if stored not in self.reader.tensors:
                    raise unsupported(f"the checkpoint lacks the tensor {stored}")
                return self.reader.tensor(stored)

            self._context = ModelContext(self._skeleton, parameter, self.device, self.dtype)
        return self._context


def _on_meta(value: Any) -> Any:
    """A layer's argument without its values."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, (tuple, list)):
        return type(value)(_on_meta(item) for item in value)
    return value
