"""A decoder-only model of which one layer at a time exists: real transformers modules, real weights.

Everything else stays on the meta device (shapes, no memory) or in the checkpoint: of the embedding the rows
that occur are read, the head comes in slices of the vocabulary. The small modules outside the layers (norms,
learned positions) are held by the context (context.py).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.reading import reading
from quantizer.checkpoint.reader import rows_within
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.blocks import ArgumentsOf, BlockLayer, load_weights
from quantizer.decoder.buffers import cast_masks, compute_buffers
from quantizer.decoder.context import Arguments, ModelContext
from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.found_folds import find_folds
from quantizer.decoder.generic import GenericLayer, GenericWalk
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.nested import on_meta, without_values
from quantizer.decoder.own_words import said, stops_whole
from quantizer.decoder.skeleton import ANOTHER_TYPE, COPY_CONFIG, NOT_OF_ONE_MODEL, unsupported
from quantizer.decoder.tables import further_tables, gathered
from quantizer.decoder.walk import BlockWalk, LayerWalk, StoreFactory

TRIED_TOKENS = 2
TABLE_BYTES = 4_000_000  # embeddings and head are read in slices of at most this size

DecoderLayer = BlockLayer | GenericLayer
"""One decoder layer on real weights."""


class DecoderModel:
    """The decoder of a layout, computed layer by layer.

    Args:
        layout: the checkpoint's; several models may share it.
        device: where layers run.
        dtype: computation dtype of weights and activations; float32 on a CPU.
    """

    def __init__(
        self, layout: DecoderLayout, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.layout, self.device, self.dtype = layout, device, dtype
        self._context: ModelContext | None = None
        self._further: dict[str, Tensor] | None = None

    def stock_layer(self, index: int) -> tuple[nn.Module, ArgumentsOf]:
        """transformers' own layer `index` on the meta device, a copy; and what its forward takes beside states."""
        pattern = self.layout.pattern(index)
        return pattern.fresh(), lambda batch, tokens: self._whole().arguments(index, batch, tokens)

    def layer(self, index: int, weights: dict[str, Tensor]) -> DecoderLayer:
        """Layer `index` on real weights: `weights` by their names in the layer, as the checkpoint has them.

        They are moved to device and dtype; the mapping is emptied on the way, so that none exists twice.
        """
        pattern = self.layout.pattern(index)
        module = pattern.fresh()
        skeleton = self.layout.skeleton
        compute_buffers(skeleton.causal, module, self.device, skeleton.layers_name)
        cast_masks(module, self.dtype)
        pattern.join(weights)
        load_weights(
            module,
            weights,
            lambda name, value: pattern.transposed(name, self._as_computed(value)),
            pattern.names.own,
        )

        def arguments_of(batch: int, tokens: int) -> Any:
            return self._whole().arguments(index, batch, tokens)

        if not pattern.blocks:
            step = self.layout.stream.step(index)
            return GenericLayer(module, pattern.stages, arguments_of, pattern.names, step)
        parallel = self.layout.architecture.parallel is not None and bool(
            getattr(self.layout.config, self.layout.architecture.parallel)
        )
        return BlockLayer(module, pattern.blocks, pattern.stages, parallel, arguments_of)

    def _as_computed(self, value: Tensor) -> Tensor:
        """A tensor of the checkpoint where and as it is computed with; whole numbers stay what they are."""
        return value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)

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
        return walk_over(self.layer(index, weights), hidden, store_factory, wants_output=wants_output)

    def folds(self, index: int, walk: LayerWalk) -> tuple[FoldPlace, ...]:
        """Where scales of input channels fold away in layer `index`: `walk` has its weights, none of them rounded."""
        if not isinstance(walk, GenericWalk):
            return self.layout.folds(index)
        with torch.inference_mode():
            found, layout = self.layout.found(index).candidates, self.layout
            return find_folds(walk.layer, found, layout.config, layout.stream)

    # before and behind the layers

    def table_slices(self, name: str, step: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """A large table (embedding, head) in slices of rows: (first row, rows in computation dtype).

        step: rows of a slice; by default what fits into TABLE_BYTES.
        """
        info = self.layout.reader.tensors[name]
        for first, part in self.layout.reader.slices(name, step or rows_within(info, TABLE_BYTES)):
            yield first, part.to(device=self.device, dtype=self.dtype)

    def embed(self, tokens: Sequence[Tensor]) -> Iterator[Tensor]:
        """Rows (stream.py), mostly hidden states, of each batch of token ids [batch, tokens] before the first layer.

        The rows that are needed are gathered once from a slice-wise read of the embedding.
        """
        if not tokens:
            return
        used = torch.unique(torch.cat([batch.reshape(-1) for batch in tokens]))
        rows = gathered(self.table_slices(self.layout.embedding_name()), used)
        further = {
            name: gathered(self.table_slices(self.layout.stored_name(f"{name}.weight")), used)
            for name in further_tables(self.layout.skeleton)
        }
        for batch in tokens:
            yield self._begun(*self._whole().begin(rows, batch, used, further))

    def embed_whole(self, table: Tensor, tokens: Tensor) -> Tensor:
        """As `embed` for one batch of token ids [batch, tokens], with the whole table at hand."""
        if self._further is None:
            names = further_tables(self.layout.skeleton)
            read = {name: self.table_slices(self.layout.stored_name(f"{name}.weight")) for name in names}
            self._further = {name: torch.cat([rows for _, rows in slices]) for name, slices in read.items()}
        return self._begun(*self._whole().begin(table, tokens, None, self._further))

    def _begun(self, hidden: Tensor, arguments: Sequence[Arguments]) -> Tensor:
        return self.layout.stream.begun(hidden.to(self.dtype), arguments)

    def final(self, rows: Tensor) -> Tensor:
        """What the head reads (the final norm), [batch, tokens, width], of the last layer's rows (stream.py)."""
        text = (rows.shape[0], rows.shape[1])
        return self._whole().final(self.layout.stream.hidden(rows), text=text)

    def logits(self, read: Tensor, first: int, rows: Tensor) -> Tensor:
        """Logits [batch, tokens, rows] of vocabulary entries first .. first + rows.

        read [batch, tokens, width]: from `final`. rows [rows, width]: that slice of the head (`head_name`).
        Soft caps and scalings of logits are the model's own.
        """
        return self._whole().logits(read, first, rows)

    def around(self, changed: Callable[[str, Tensor], Tensor] | None = None) -> ModelContext:
        """What is before and behind the layers, on a CPU; `changed` makes other numbers of a parameter, by its name."""

        def read(name: str) -> Tensor:
            return self._read(name) if changed is None else changed(name, self._read(name))

        return ModelContext(self.layout.skeleton, read, torch.device("cpu"), torch.float32)

    def try_out(self) -> None:
        """Sends two tokens through the model as far as that needs no weights of a layer.

        Values of the config that only a forward uses (of rotary embeddings, masks, soft caps) are then found to be
        of no use before work begins. A layer is run on the meta device, without memory.

        Raises:
            QuantizationError: ModelUnsupported.
        """
        with reading(Category.MODEL_UNSUPPORTED, "config.json", COPY_CONFIG), torch.inference_mode():
            whole = self._whole()
            arguments = whole.arguments(0, 1, TRIED_TOKENS)
            stream = self.layout.stream
            rows = self._zeros(1, TRIED_TOKENS, stream.row(TRIED_TOKENS))
            read = self.final(rows)
            self._try_head(whole, read)
            pattern = self.layout.pattern(0)
            if not pattern.sparse:  # experts are chosen by values, which the meta device has not
                hidden, given = stream.step(0).given(rows.to("meta"), on_meta(dict(arguments)))
                with without_values():
                    pattern.fresh().to("meta")(hidden, **given)

    def _try_head(self, whole: ModelContext, read: Tensor) -> None:
        rows, width = self.layout.head_shape
        try:
            whole.logits(read, 0, self._zeros(1, width))
        except Exception as error:
            if isinstance(error, QuantizationError):
                raise
            skeleton, kind = self.layout.skeleton, self.layout.model_type
            if own := stops_whole(skeleton, error) if skeleton.beside else None:
                raise unsupported(f"a {kind} model is not supported: {own}", ANOTHER_TYPE) from error
            whole.logits(read, 0, self._zeros(1, 1).expand(rows, width))
            raise unsupported(
                f"a {kind} model does something with the logits of some tokens that it cannot do with a part of the "
                f"vocabulary ({said(error)}), and the head is computed in parts",
                ANOTHER_TYPE,
            ) from error

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _whole(self) -> ModelContext:
        """The model around the layers, made when it is first needed."""
        if self._context is None:
            self._context = ModelContext(self.layout.skeleton, self._read, self.device, self.dtype)
        return self._context

    def _read(self, name: str) -> Tensor:
        """A parameter outside the layers by its name in the model."""
        stored = self.layout.stored_name(name)
        if stored not in self.layout.reader.tensors:
            raise unsupported(f"the checkpoint lacks the tensor {stored}", NOT_OF_ONE_MODEL)
        return self.layout.reader.tensor(stored)


def walk_over(
    layer: DecoderLayer, hidden: ActivationStore, store_factory: StoreFactory, *, wants_output: bool = True
) -> LayerWalk:
    """A layer over all batches of `hidden`; see DecoderModel.walk."""
    if isinstance(layer, BlockLayer):
        return BlockWalk(layer, hidden, store_factory, wants_output)
    return GenericWalk(layer, hidden, wants_output)
