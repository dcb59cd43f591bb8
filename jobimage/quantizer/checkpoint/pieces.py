"""Tensors that lie within others: experts that a checkpoint holds in one tensor, read and written as one for each."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from quantizer.checkpoint.reader import SafetensorsReader, TensorInfo


@dataclass(frozen=True)
class Piece:
    """Where a tensor lies: in the part `number` of `tensor`, along its first dimension."""

    tensor: str
    number: int
    shape: tuple[int, ...]
    cut: Callable[[Tensor], Tensor]
    """Makes it of that part, as a view."""


class Wholes:
    """The tensors of a checkpoint that pieces lie in.

    Args:
        pieces: by the name that each has.
        tensors: of the checkpoint, as it is.

    Attributes: tensors (of them those that pieces lie in).
    """

    def __init__(self, pieces: Mapping[str, Piece], tensors: Mapping[str, TensorInfo]) -> None:
        self._pieces = pieces
        self._names: dict[str, list[str]] = {}
        for name, piece in pieces.items():
            self._names.setdefault(piece.tensor, []).append(name)
        self.tensors = {name: tensors[name] for name in self._names}

    def of(self, name: str) -> TensorInfo | None:
        """The tensor that a piece lies in; None for what lies in no other."""
        piece = self._pieces.get(name)
        return None if piece is None else self.tensors[piece.tensor]

    def filled(self, name: str) -> bool:
        """Whether the pieces of a tensor are all of it."""
        inside = sum(math.prod(self._pieces[piece].shape) for piece in self._names[name])
        return inside == math.prod(self.tensors[name].shape)

    def join(self, tensors: dict[str, Tensor]) -> None:
        """Puts whole tensors in the place of their pieces, in the mapping; of each all pieces are there, or none."""
        for name in [name for name, pieces in self._names.items() if pieces[0] in tensors]:
            whole = torch.empty(self.tensors[name].shape, dtype=tensors[self._names[name][0]].dtype)
            for piece in self._names[name]:
                place = self._pieces[piece]
                place.cut(whole[place.number]).copy_(tensors.pop(piece))
            tensors[name] = whole

    def cut(self, tensors: dict[str, Tensor]) -> None:
        """Puts pieces in the place of whole tensors, in the mapping."""
        for name in [name for name in self._names if name in tensors]:
            whole = tensors.pop(name)
            for piece in self._names[name]:
                place = self._pieces[piece]
                tensors[piece] = place.cut(whole[place.number]).contiguous()


class PiecewiseReader(SafetensorsReader):
    """A checkpoint in which pieces stand in the place of the tensors that they lie in.

    Args:
        reader: the checkpoint.
        pieces: by the name that each is to have.
    """

    def __init__(self, reader: SafetensorsReader, pieces: Mapping[str, Piece]) -> None:
        self.__dict__.update(vars(reader))
        self._reader, self._pieces = reader, pieces
        by_tensor: dict[str, dict[str, TensorInfo]] = {}
        for name, piece in pieces.items():
            by_tensor.setdefault(piece.tensor, {})[name] = _info(name, piece, reader.tensors[piece.tensor])
        self.tensors = {}
        for name, info in reader.tensors.items():
            self.tensors |= by_tensor.get(name, {name: info})

    @override
    def tensor(self, name: str) -> Tensor:
        piece = self._pieces.get(name)
        if piece is None:
            return self._reader.tensor(name)
        part = self._reader.rows(piece.tensor, piece.number, piece.number + 1)
        return piece.cut(part[0]).contiguous()

    @override
    def rows(self, name: str, first: int, last: int) -> Tensor:
        return self.tensor(name)[first:last] if name in self._pieces else self._reader.rows(name, first, last)

    @override
    def pieces(self, name: str, limit: int) -> Iterator[tuple[int, Tensor]]:
        if name not in self._pieces:
            yield from self._reader.pieces(name, limit)
            return
        data = self.tensor(name).reshape(-1).view(torch.uint8)
        for at in range(0, len(data), limit):
            yield at, data[at : at + limit]


def _info(name: str, piece: Piece, whole: TensorInfo) -> TensorInfo:
    return replace(whole, name=name, shape=piece.shape, length=math.prod(piece.shape) * whole.dtype.itemsize)
