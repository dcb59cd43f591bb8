"""Writes safetensors shards of bounded size, hands each finished one on, and writes the index last.

All names, dtypes and shapes are known before the first tensor is finished (quantization does not change
what is written, only the values), so the shards are planned up front: the header of a shard is written
first and its tensors land at their offsets in any order. A shard that is full goes to the sink in a
thread (an upload, usually) and is removed from scratch afterwards; scratch holds at most the shard being
written and two that wait for the sink.
"""

import errno
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.reader import DTYPE_NAMES
from quantizer.checkpoint.weight_files import INDEX_NAME, SINGLE_NAME

Sink = Callable[[str, Path], None]
"""Takes a finished file: (name in the model directory, path on scratch). Returns when it is stored; the
file is removed afterwards. Called from one background thread, one file after another."""

MAX_SHARD_BYTES = 4_000_000_000
MAX_WAITING_SHARDS = 2


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class Shard:
    """One planned file."""

    name: str
    header: bytes
    offsets: dict[str, int]
    """Of each tensor in the file."""
    size: int
    missing: dict[str, int] = field(default_factory=dict)
    """Bytes of each tensor that are still to come."""


def plan_shards(groups: Sequence[Sequence[PlannedTensor]], max_shard_bytes: int) -> list[Shard]:
    """Splits tensors into shards of at most `max_shard_bytes`, a group (a decoder layer) kept together.

    A group larger than the bound starts a shard of its own and is cut between tensors; a tensor larger
    than the bound is a shard of its own (it cannot be split).
    """
    shards: list[list[PlannedTensor]] = [[]]
    used = 0
    for group in groups:
        whole = sum(tensor.length for tensor in group)
        if used and used + whole > max_shard_bytes:
            shards.append([])
            used = 0
        for tensor in group:
            if used and used + tensor.length > max_shard_bytes:
                shards.append([])
                used = 0
            shards[-1].append(tensor)
            used += tensor.length
    shards = [shard for shard in shards if shard]
    count = len(shards)
    names = (
        [SINGLE_NAME]
        if count == 1
        else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    )
    return [_layout(name, shard) for name, shard in zip(names, shards, strict=True)]


def _layout(name: str, tensors: Sequence[PlannedTensor]) -> Shard:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    starts: dict[str, int] = {}
    # widest elements first keeps every tensor aligned to its element size, as the safetensors library does
    for tensor in sorted(tensors, key=lambda item: -item.dtype.itemsize):
        starts[tensor.name] = position
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.length],
        }
        position += tensor.length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    return Shard(
        name,
        head,
        {tensor: len(head) + start for tensor, start in starts.items()},
        len(head) + position,
        {tensor.name: tensor.length for tensor in tensors},
    )


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Turns "no space left" on the scratch volume into ScratchFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QuantizationError(Category.SCRATCH_FULL, f"scratch is full: {error}") from error
        raise


class ShardWriter:
    """Takes finished tensors, gives finished files to the sink. Use as a context manager.

    Args:
        groups: every tensor that will be written, grouped by what should stay in one file.
        scratch: directory for the files under construction.
        sink: see `Sink`; what it raises comes out of the next call here.
        max_shard_bytes: bound of a shard's tensor data.

    Leaving the block normally waits for the sink, checks that every planned tensor came, and writes the
    index; leaving it by an exception drops what is under construction.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[PlannedTensor]],
        scratch: Path,
        sink: Sink,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        self._scratch = scratch
        self._sink = sink
        self._planned = {tensor.name: tensor for group in groups for tensor in group}
        self._shards = plan_shards(groups, max_shard_bytes)
        self._shard_of = {name: shard for shard in self._shards for name in shard.offsets}
        self._open: dict[str, int] = {}  # file name -> descriptor
        self._waiting: list[Future[None]] = []
        self._finished: list[Path] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sink")
        self.bytes = sum(shard.size for shard in self._shards)
        self.files = [shard.name for shard in self._shards]

    def write(self, name: str, tensor: Tensor) -> None:
        """A whole tensor; must have the planned dtype and shape."""
        planned = self._planned[name]
        if (tensor.dtype, tuple(tensor.shape)) != (planned.dtype, planned.shape):
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, planned was {planned}")
        self.write_part(name, 0, tensor)

    def write_part(self, name: str, offset: int, part: Tensor) -> None:
        """Part of a tensor at a byte offset within it (large tables are copied in pieces)."""
        data = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        shard = self._shard_of[name]
        with scratch_errors():
            descriptor = self._descriptor(shard)
            position, view = shard.offsets[name] + offset, memoryview(data.data)
            while view:
                written = os.pwrite(descriptor, view, position)
                position, view = position + written, view[written:]
        shard.missing[name] -= data.nbytes
        if shard.missing[name] < 0:
            raise ValueError(f"{name} was written twice")
        if not any(shard.missing.values()):
            self._finish(shard)

    def put_file(self, name: str, data: bytes) -> None:
        """A small file beside the shards (config.json, tokenizer.json), through the same sink."""
        path = self._scratch / name.replace("/", "__")
        with scratch_errors():
            path.write_bytes(data)
        self._hand_on(name, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._close()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            for name, descriptor in self._open.items():
                os.close(descriptor)
                self._finished.append(self._scratch / name)
            for path in self._finished:
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        missing = [name for shard in self._shards for name, left in shard.missing.items() if left]
        if missing:
            raise ValueError(f"planned but never written: {', '.join(missing[:5])}")
        if len(self._shards) > 1:
            weight_map = {name: shard.name for shard in self._shards for name in shard.offsets}
            total = sum(tensor.length for tensor in self._planned.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            self.put_file(INDEX_NAME, json.dumps(index, indent=2).encode() + b"\n")
        self._wait(leave=0)

    def _descriptor(self, shard: Shard) -> int:
        if shard.name not in self._open:
            path = self._scratch / shard.name
            self._open[shard.name] = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
            os.pwrite(self._open[shard.name], shard.header, 0)
        return self._open[shard.name]

    def _finish(self, shard: Shard) -> None:
        os.close(self._open.pop(shard.name))
        self._hand_on(shard.name, self._scratch / shard.name)

    def _hand_on(self, name: str, path: Path) -> None:
        def deliver() -> None:
            self._sink(name, path)
            path.unlink(missing_ok=True)

        self._finished.append(path)
        self._wait(leave=MAX_WAITING_SHARDS - 1)
        self._waiting.append(self._pool.submit(deliver))

    def _wait(self, leave: int) -> None:
        """Waits until at most `leave` files are with the sink, and raises what the sink raised."""
        while len(self._waiting) > leave or (self._waiting and self._waiting[0].done()):
            self._waiting.pop(0).result()
