"""Activations of a whole calibration set, in a file on scratch, one batch in memory at a time.

A file that is read and written (not mapped) does not count towards the process's memory; the kernel
keeps it in its page cache while there is room, so a small set never touches the disk.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from quantizer.checkpoint.writer import scratch_errors


class ActivationStore:
    """Batches of activations [batch, tokens, width] by number. Use as a context manager.

    Args:
        path: file to create, or to write over; removed at the end.
        shapes: (batch, tokens) of each batch.
        width: size of the last dimension, at most; a batch is handed out as wide as it was written.
        dtype: of what is stored and handed out.
        device: where batches are handed out.
        keep_below: bytes; a smaller file is not removed, for the next store of the path to have its pages.
        measured: keep the largest absolute value that was ever written.
    """

    def __init__(
        self,
        path: Path,
        shapes: Sequence[tuple[int, int]],
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        keep_below: int = 0,
        *,
        measured: bool = False,
    ) -> None:
        self._keep_below = keep_below
        self._path, self._width, self._dtype, self._device = path, width, dtype, device
        self._shapes = list(shapes)
        self._offsets = [0]
        for batch, tokens in self._shapes:
            self._offsets.append(self._offsets[-1] + batch * tokens * width * dtype.itemsize)
        self._written: list[int | None] = [None] * len(self._shapes)  # the width of what is there
        self._largest = [0.0] * len(self._shapes) if measured else []
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(batch, tokens) of each batch."""
        return list(self._shapes)

    @property
    def width(self) -> int:
        """Size of the last dimension, at most."""
        return self._width

    @property
    def dtype(self) -> torch.dtype:
        """Of what is stored."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where batches are handed out."""
        return self._device

    def __len__(self) -> int:
        return len(self._shapes)

    def write(self, number: int, activations: Tensor) -> None:
        """Stores batch `number`; the shape must be the announced one, or narrower."""
        expected, width = (*self._shapes[number], self._width), activations.shape[-1]
        fits = tuple(activations.shape[:-1]) == self._shapes[number] and width <= self._width
        if not fits or activations.dtype != self._dtype:
            raise ValueError(f"batch {number} is {tuple(activations.shape)}, announced was {expected}")
        data = activations.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        position, view = self._offsets[number], memoryview(data.data)
        with scratch_errors():
            while view:
                written = os.pwrite(self._file, view, position)
                position, view = position + written, view[written:]
        self._written[number] = width
        if self._largest:
            low, high = torch.aminmax(activations.detach())
            largest = float(torch.maximum(-low, high))
            if not largest <= self._largest[number]:  # nan too, and it stays
                self._largest[number] = largest

    @property
    def largest(self) -> float:
        """The largest absolute value that was ever written, nan if one was; 0.0 unless the store is `measured`."""
        odd = [value for value in self._largest if value != value]
        return odd[0] if odd else max(self._largest, default=0.0)

    def read(self, number: int) -> Tensor:
        """Batch `number`, as a tensor of its own on the device."""
        width = self._written[number]
        if width is None:
            raise ValueError(f"batch {number} was never written")
        start = self._offsets[number]
        stored = torch.empty((*self._shapes[number], width), dtype=self._dtype)
        view, position = memoryview(stored.view(-1).view(torch.uint8).numpy().data), start
        while view:
            count = os.preadv(self._file, [view], position)
            if count == 0:
                raise ValueError(f"{self._path} was cut short")
            position, view = position + count, view[count:]
        return stored.to(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if self._offsets[-1] >= self._keep_below:
            self._path.unlink(missing_ok=True)
