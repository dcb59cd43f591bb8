"""A model whose layers are all in memory at once: for what needs every layer again and again, such as writing text."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.machine import free_memory

BATCH_TOKENS = 2048


class Layer(Protocol):
    """A decoder layer on plain weights."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The whole layer: [batch, tokens, width] to the same."""
        ...


def whole_bytes(layout: DecoderLayout, dtype: torch.dtype) -> int:
    """Memory of all weights of a model in a data type."""
    return sum(math.prod(info.shape) for info in layout.reader.tensors.values()) * dtype.itemsize


def require_room(layout: DecoderLayout, dtype: torch.dtype, device: torch.device) -> None:
    """Raises HostOutOfMemory (GpuOutOfMemory on a GPU) where all weights of a model do not fit into free memory."""
    needed, free = whole_bytes(layout, dtype), free_memory(device)
    if needed > free:
        raise QuantizationError(
            Category.GPU_OUT_OF_MEMORY if device.type == "cuda" else Category.HOST_OUT_OF_MEMORY,
            "tasks let the model write text (output_type: generate_until), for which all of it must be in memory: "
            f"{needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free",
            "Give the run more memory, or choose tasks of multiple choice, which need that of one layer.",
        )


class WholeModel:
    """A model in memory.

    Args:
        layers: all of them, in order; they are kept.
    """

    def __init__(self, model: DecoderModel, layers: Iterable[Layer]) -> None:
        self._model, self._layers = model, list(layers)
        self._embedding = self._table(model.layout.embedding_name())
        same = model.layout.head_name() == model.layout.embedding_name()
        self._head = self._embedding if same else self._table(model.layout.head_name())

    def next_tokens(self, ids: Tensor) -> Tensor:
        """The token that the model chooses behind each sequence: [batch, tokens] int64 to [batch]."""
        hidden = self._model.embed_whole(self._embedding, ids)
        for layer in self._layers:
            hidden = layer.forward(hidden)
        read = self._model.final(hidden)[:, -1:]
        return self._model.logits(read, 0, self._head)[:, 0].argmax(1).cpu()

    def _table(self, name: str) -> Tensor:
        return torch.cat([rows for _, rows in self._model.table_slices(name)])


def write(
    model: WholeModel, prompts: Sequence[tuple[Sequence[int], int]], ends: frozenset[int]
) -> list[list[int]]:
    """Continues each prompt greedily, by as many tokens as it says or until one of the ends, which is left out.

    Prompts of equal length are continued together, so that none is padded. No keys and values are kept: each token
    costs a pass over its whole sequence.
    """
    written: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda number: len(prompts[number][0]))
    with torch.inference_mode():
        while waiting:
            group = _group(waiting, prompts)
            waiting = waiting[len(group) :]
            while group:
                ids = torch.tensor([[*prompts[number][0], *written[number]] for number in group])
                left = []
                for number, token in zip(group, model.next_tokens(ids).tolist(), strict=True):
                    if token in ends:
                        continue
                    written[number].append(token)
                    if len(written[number]) < prompts[number][1]:
                        left.append(number)
                group = left
    return written


def _group(waiting: Sequence[int], prompts: Sequence[tuple[Sequence[int], int]]) -> list[int]:
    """The first of those that wait and others of its length, as many as go together."""
    length = len(prompts[waiting[0]][0])
    most = max(1, BATCH_TOKENS // (length + prompts[waiting[0]][1]))
    return [number for number in waiting[:most] if len(prompts[number][0]) == length]
