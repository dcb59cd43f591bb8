"""Reads safetensors checkpoints tensor by tensor through byte ranges.

Layout of a safetensors file: 8 bytes little-endian length n, n bytes JSON {name: {dtype, shape,
data_offsets}}, then the data (offsets are relative to its start). Headers are checked against the size
of their file before anything is read, so a truncated shard is reported at the start of a run and
not after an hour.
"""

import math
import struct
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import shortened
from quantizer.boundary.bounded_json import read_object
from quantizer.boundary.lfs import FETCH, IS_POINTER, POINTER_BYTES, is_pointer
from quantizer.boundary.reading import reading
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.source import Source, read_whole
from quantizer.checkpoint.weight_files import INDEX_NAME, WeightFiles, indexed_files, single_file

MAX_HEADER_BYTES = MAX_INDEX_BYTES = 32_000_000
"""Room for more than 200,000 tensors; in memory a header takes ten times as much."""
COMPARED_BYTES = 16_000_000
DAMAGED = "The file is damaged: copy it again."
FLOAT_CHECKPOINT = "Start from the model's fp16, bf16 or fp32 checkpoint."

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: bytes [start, start + length) of `file`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str
    start: int
    length: int


def rows_within(info: TensorInfo, limit: int) -> int:
    """How many rows of a tensor fit into `limit` bytes, at least one."""
    return max(1, limit * info.shape[0] // max(1, info.length))


class SafetensorsReader:
    """The tensors of a checkpoint: one model.safetensors, or shards with an index.

    Args:
        source: where the files are.
        broken: category of a damaged file; a model that came in is ModelUnsupported, an artifact that is
            read back is ArtifactCorrupt.

    Raises:
        QuantizationError: ModelNotFound when there are no safetensors or the index names a file that is
            not there; ModelUnsupported when there are two sets of weights; `broken` when a header is damaged, a
            file is truncated, or two files have different values of one tensor.

    Attributes:
        files: names of the files that are read.
        tensors: what can be read, by name. stored: what lies in the files; the same here.
        bytes: size of what lies there.
        method: how the checkpoint is quantized, where it is; see DequantizedReader.
        left_out: names of tensors in the files that say nothing about the weights.
    """

    method = ""
    left_out: tuple[str, ...] = ()

    def __init__(self, source: Source, broken: Category = Category.MODEL_UNSUPPORTED) -> None:
        self.source = source
        self._broken = broken
        files = source.list()
        weights = self._weight_files(list(files))
        self.files = weights.files
        self.tensors: dict[str, TensorInfo] = {}
        for file in weights.files:
            for info in self._read_header(file, files[file]):
                found = self.tensors.setdefault(info.name, info)
                if found is not info and not self._same_bytes(found, info):
                    raise self._two_values(found, info)
        for name, file in weights.index.items():
            if name not in self.tensors:  # readers look for it in every file, and so do we
                raise self._damaged(file, f"lacks {name}, which {INDEX_NAME} lists")
        self.stored = self.tensors
        self.bytes = sum(info.length for info in self.stored.values())

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of most of the numbers."""
        counts: Counter[torch.dtype] = Counter()
        for info in self.tensors.values():
            if info.dtype.is_floating_point:
                counts[info.dtype] += info.length // info.dtype.itemsize
        return counts.most_common(1)[0][0] if counts else torch.float32

    @property
    def dtypes(self) -> str:
        """Every floating-point type that occurs, in config.json's words: "float16", or "float16 and float32"."""
        found = {info.dtype for info in self.tensors.values() if info.dtype.is_floating_point}
        return " and ".join(sorted(map(word, found)))

    def tensor(self, name: str) -> Tensor:
        """One tensor in its own dtype, read from its byte range; KeyError for an unknown name."""
        info = self.tensors[name]
        return self._decode(info, info.shape, 0, info.length)

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows [first, last) along dimension 0 of one tensor; for tables too large to hold at once."""
        return self._rows(self.tensors[name], first, last)

    def slices(self, name: str, step: int) -> Iterator[tuple[int, Tensor]]:
        """A tensor in pieces of `step` rows: (first row, rows)."""
        count = self.tensors[name].shape[0]
        for first in range(0, count, step):
            yield first, self.rows(name, first, min(first + step, count))

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors of one shape hold the same numbers, whatever their types; read slice by slice."""
        infos = self.tensors[one], self.tensors[other]
        if infos[0].shape != infos[1].shape:
            return False
        step = rows_within(max(infos, key=lambda info: info.length), COMPARED_BYTES)
        pairs = zip(self.slices(one, step), self.slices(other, step), strict=True)
        return all(torch.equal(left.double(), right.double()) for (_, left), (_, right) in pairs)

    def pieces(self, name: str, limit: int) -> Iterator[tuple[int, Tensor]]:
        """The bytes of a tensor of any type and shape, uint8, at most `limit` at a time: (offset, bytes)."""
        info = self.tensors[name]
        for at in range(0, info.length, limit):
            count = min(limit, info.length - at)
            yield at, self._decode(replace(info, dtype=torch.uint8), (count,), at, count)

    def prefetched(self, groups: Sequence[Sequence[str]]) -> Iterator[dict[str, Tensor]]:
        """The tensors of each group (a decoder layer), the next group read in a thread meanwhile.

        Holds at most two groups in the checkpoint's dtype: the one handed out and the one being read.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
            pending = deque([pool.submit(self._group, group) for group in groups[:1]])
            for following in [*groups[1:], None][: len(groups)]:
                if following is not None:
                    pending.append(pool.submit(self._group, following))
                yield pending.popleft().result()  # no name here: the consumer's reference is the only one

    def _same_bytes(self, one: TensorInfo, two: TensorInfo) -> bool:
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return False
        for at in range(0, one.length, COMPARED_BYTES):
            count = min(COMPARED_BYTES, one.length - at)
            first = self.source.read(one.file, one.start + at, count)
            if first != self.source.read(two.file, two.start + at, count):
                return False
        return True

    def _two_values(self, one: TensorInfo, two: TensorInfo) -> QuantizationError:
        return QuantizationError(
            self._broken,
            f"{two.file} holds {two.name}, of which {one.file} has other values",
            "Remove the files that do not belong to the model, or save it again with save_pretrained.",
        )

    def _rows(self, info: TensorInfo, first: int, last: int) -> Tensor:
        row_bytes = info.length // info.shape[0]
        return self._decode(
            info, (last - first, *info.shape[1:]), first * row_bytes, (last - first) * row_bytes
        )

    def _group(self, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self.tensor(name) for name in names}

    def _decode(self, info: TensorInfo, shape: tuple[int, ...], offset: int, length: int) -> Tensor:
        if length == 0:
            return torch.empty(shape, dtype=info.dtype)
        buffer = self.source.read(info.file, info.start + offset, length)
        if memoryview(buffer).readonly:
            buffer = bytearray(buffer)  # torch wants memory that it may write to
        return torch.frombuffer(buffer, dtype=info.dtype).view(shape)

    def _weight_files(self, names: Sequence[str]) -> WeightFiles:
        if INDEX_NAME not in names:
            return single_file(names)
        data = read_whole(self.source, INDEX_NAME, MAX_INDEX_BYTES)
        weight_map = self._json_object(INDEX_NAME, data, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise self._damaged(INDEX_NAME, "has no weight_map")
        index = {str(name): str(file) for name, file in weight_map.items()}
        for name in sorted(set(index.values())):
            if not name.endswith(".safetensors") or not name.isprintable():
                raise self._damaged(
                    INDEX_NAME, f"names {shortened(ascii(name), 100)}, which is not a safetensors file"
                )
        return indexed_files(names, index)

    def _read_header(self, file: str, size: int) -> list[TensorInfo]:
        start = self.source.read(file, 0, min(8, size))
        if size < 8:
            raise self._damaged(file, f"has {size} bytes and no header")
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            if size <= POINTER_BYTES and is_pointer(self.source.read(file, 0, size)):
                raise QuantizationError(Category.MODEL_NOT_FOUND, f"{file} {IS_POINTER}", FETCH)
            raise self._damaged(file, f"claims a header of {length} bytes, but the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise self._damaged(
                file, f"has a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed"
            )
        header = self._json_object(file, bytes(self.source.read(file, 8, length)), MAX_HEADER_BYTES)
        infos = [
            self._parse_entry(file, name, entry, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        ]
        infos.sort(key=lambda info: info.start)
        for one, two in pairwise(infos):
            if one.start + one.length > two.start:
                raise self._damaged(file, f"has overlapping tensors {one.name} and {two.name}")
        end = max((info.start + info.length for info in infos), default=8 + length)
        if end > size:
            raise self._damaged(file, f"is truncated: its header describes {end} bytes, the file has {size}")
        if end < size:
            raise self._damaged(file, f"has {size} bytes, but its header describes only {end}")
        return infos

    def _parse_entry(self, file: str, name: str, entry: Any, data_start: int) -> TensorInfo:
        with reading(self._broken, f"{file}: the entry of {name}", DAMAGED):
            dtype_name, shape = str(entry["dtype"]), tuple(_whole(size) for size in entry["shape"])
            start, end = (_whole(offset) for offset in entry["data_offsets"])
        if dtype_name not in DTYPES:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"{name} in {file} has the unsupported dtype {dtype_name}",
                FLOAT_CHECKPOINT,
            )
        dtype = DTYPES[dtype_name]
        if min(shape, default=0) < 0 or start < 0 or end - start != math.prod(shape) * dtype.itemsize:
            raise self._damaged(file, f"gives {name} {shape} {dtype_name} a size of {end - start} bytes")
        return TensorInfo(name, dtype, shape, file, data_start + start, end - start)

    def _json_object(self, file: str, data: bytes, limit: int) -> dict[str, Any]:
        return read_object(data, self._broken, f"the JSON of {file}", limit=limit, hint=DAMAGED)

    def _damaged(self, file: str, what: str) -> QuantizationError:
        return QuantizationError(self._broken, f"{file} {what}", DAMAGED)


def _whole(number: Any) -> int:
    """A size or an offset; text, true and 1.5 are refused, as other readers of the format refuse them."""
    if type(number) is not int:
        raise TypeError(f"{shortened(repr(number), 100)} is not a whole number")
    return number
