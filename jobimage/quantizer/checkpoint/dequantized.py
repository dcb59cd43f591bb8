"""A quantized checkpoint, read as the model that it stands for: tensor by tensor, a few rows at a time."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.data_types import from_word
from quantizer.checkpoint.encodings import Encoding
from quantizer.checkpoint.quantized_input import FLOAT_TYPES, OF_ACTIVATIONS, Scheme, stored_scheme
from quantizer.checkpoint.reader import SafetensorsReader, TensorInfo, rows_within
from quantizer.checkpoint.source import Source

FIELD = "quantization_config"
PART_BYTES = 16_000_000
"""Of a tensor that are decoded at once; decoding takes a few times as much."""


def open_checkpoint(source: Source, config: dict[str, Any]) -> tuple[SafetensorsReader, dict[str, Any]]:
    """The tensors and the config.json of a model, both as if it were not quantized.

    Raises:
        QuantizationError: as SafetensorsReader, and ModelUnsupported for a way to quantize that is not read.
    """
    if not config.get(FIELD):
        return SafetensorsReader(source), config
    plain = {key: value for key, value in config.items() if key != FIELD}
    return DequantizedReader(source, stored_scheme(config[FIELD]), plain), plain


class DequantizedReader(SafetensorsReader):
    """The tensors that a quantized checkpoint stands for.

    They are in the type that config.json names, as transformers loads them; if it names none, in that of most numbers
    beside them, or else in bfloat16.

    Args:
        source: where the files are.
        scheme: how they are quantized.
        config: config.json.

    Raises:
        QuantizationError: as SafetensorsReader and Scheme.find; ModelUnsupported where nothing is quantized.
    """

    def __init__(self, source: Source, scheme: Scheme, config: Mapping[str, Any]) -> None:
        super().__init__(source)
        self.method = scheme.method
        self._encodings = scheme.find(self.stored)
        if not self._encodings:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"config.json says that the model is quantized ({scheme.method}), but no tensor is",
                f"If the weights are the original ones, remove {FIELD} from config.json; else copy the model again.",
            )
        parts = {part.name for encoding in self._encodings.values() for part in encoding.parts}
        self.left_out = tuple(
            name for name in self.stored if name not in parts and OF_ACTIVATIONS.search(name)
        )
        plain = {name: self.stored[name] for name in self.stored if name not in {*parts, *self.left_out}}
        dtype = _dtype(config, plain)
        decoded = {name: _info(name, encoding, dtype) for name, encoding in self._encodings.items()}
        self.tensors = _in_order(self.stored, plain | decoded, self._encodings)

    @override
    def tensor(self, name: str) -> Tensor:
        if name not in self._encodings:
            return super().tensor(name)
        return self.rows(name, 0, self.tensors[name].shape[0])

    @override
    def rows(self, name: str, first: int, last: int) -> Tensor:
        if name not in self._encodings:
            return super().rows(name, first, last)
        info, step = self.tensors[name], rows_within(self.tensors[name], PART_BYTES)
        rows = torch.empty((last - first, *info.shape[1:]), dtype=info.dtype)
        for at in range(first, last, step):
            end = min(at + step, last)
            rows[at - first : end - first] = self._encodings[name].decoded(self._rows, at, end, info.dtype)
        return rows

    @override
    def pieces(self, name: str, limit: int) -> Iterator[tuple[int, Tensor]]:
        if name not in self._encodings:
            yield from super().pieces(name, limit)
            return
        info = self.tensors[name]
        for first, rows in self.slices(name, rows_within(info, limit)):
            yield first * (info.length // info.shape[0]), rows.reshape(-1).view(torch.uint8)


def _info(name: str, encoding: Encoding, dtype: torch.dtype) -> TensorInfo:
    length = math.prod(encoding.shape) * dtype.itemsize
    return replace(encoding.parts[0], name=name, dtype=dtype, shape=encoding.shape, length=length)


def _in_order(
    stored: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo], encodings: Mapping[str, Encoding]
) -> dict[str, TensorInfo]:
    """Tensors in the order of the checkpoint."""
    place = {name: number for number, name in enumerate(stored)}
    place |= {name: place[encoding.parts[0].name] for name, encoding in encodings.items()}
    return {name: found[name] for name in sorted(found, key=place.__getitem__)}


def _dtype(config: Mapping[str, Any], others: Mapping[str, TensorInfo]) -> torch.dtype:
    said = from_word(config.get("dtype", config.get("torch_dtype")))
    if said in FLOAT_TYPES:
        return said
    counts: Counter[torch.dtype] = Counter()
    for info in others.values():
        if info.dtype in FLOAT_TYPES:
            counts[info.dtype] += math.prod(info.shape)
    return counts.most_common(1)[0][0] if counts else torch.bfloat16
