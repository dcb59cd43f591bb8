"""What goes from layer to layer, one row of numbers for each token: hidden states, and what else depends on the text.

Most layers take hidden states [batch, tokens, width] alone, and a row is a token's hidden state. Others take hidden
states of another shape, values that the model around them makes of the tokens, or values that earlier layers made. All
of these lie in one row then, side by side. So whoever stores, copies or cuts activations needs to know nothing of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantizer.decoder.nested import Path, at, with_tensors

DIGITS = 4
"""Whole numbers are stored as bytes, each as a fraction of 256, which every floating-point type holds exactly."""


@dataclass(frozen=True)
class Rows:
    """How a tensor lies in the rows of tokens.

    axes: those of the batch and of the tokens, then the others. sizes: of the others, but for one that `grows`: it is
    the last, and as long as the text at most. dtype: of whole numbers; None for floating-point ones.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    grows: bool = False
    dtype: torch.dtype | None = None

    def width(self, tokens: int) -> int:
        """Numbers in the row of a token, of so many in the text."""
        numbers = int(torch.Size(self.sizes).numel()) * (tokens if self.grows else 1)
        return numbers * (1 if self.dtype is None else DIGITS) + (DIGITS if self.grows else 0)

    def stored(self, value: Tensor, like: Tensor) -> Tensor:
        """Rows [batch, tokens, width] of a tensor, in the type of `like`."""
        lies = value.permute(self.axes)
        batch, tokens, *_ = lies.shape
        size = lies.shape[-1]
        if self.grows:
            lies = functional.pad(lies, (0, tokens - size))
        made = lies.to(like.dtype) if self.dtype is None else _digits(lies, like)
        rows = made.reshape(batch, tokens, -1)
        if not self.grows:
            return rows
        count = _digits(torch.full((batch, tokens), size, device=like.device), like)
        return torch.cat((count, rows), -1)

    def value(self, rows: Tensor) -> Tensor:
        """The tensor of such rows."""
        batch, tokens, _ = rows.shape
        size = tokens
        if self.grows:
            size = tokens if rows.is_meta else int(_whole(rows[0, 0, :DIGITS]))
            rows = rows[..., DIGITS:]
        shape = (batch, tokens, *self.sizes, *([tokens] if self.grows else []))
        whole = rows if self.dtype is None else _whole(rows.reshape(batch, tokens, -1, DIGITS)).to(self.dtype)
        lies = whole.reshape(shape)
        if self.grows:
            lies = lies[..., :size]
        back = sorted(range(len(self.axes)), key=lambda number: self.axes[number])
        return lies.permute(back)


def _digits(values: Tensor, like: Tensor) -> Tensor:
    """Bytes of whole numbers: [...] to [..., DIGITS]."""
    parts = [(values.to(torch.int64) >> (8 * number)) & 255 for number in range(DIGITS)]
    return torch.stack(parts, -1).to(like.dtype) / 256


def _whole(digits: Tensor) -> Tensor:
    parts = (digits * 256).round().to(torch.int64)
    value = sum(parts[..., number] << (8 * number) for number in range(DIGITS))
    assert isinstance(value, Tensor)
    return torch.where(value >= 1 << (8 * DIGITS - 1), value - (1 << (8 * DIGITS)), value)


@dataclass(frozen=True)
class Slot:
    """A part of every row.

    of_text: the layer and the argument in which the model around the layers hands it out; None for what layers make.
    """

    rows: Rows
    of_text: tuple[int, Path] | None = None


@dataclass(frozen=True)
class Step:
    """A layer in the stream.

    slots: the parts of a row; the first are the hidden states. None at all where a row is the hidden state.
    takes: by the place among the layer's arguments, the slot that it is given. makes: by the place in what it
    returns, the slot that this goes to. leaves: the same for what it leaves behind in its arguments.
    """

    slots: tuple[Slot, ...] = ()
    takes: Mapping[Path, int] = field(default_factory=dict)
    makes: Mapping[Path, int] = field(default_factory=dict)
    leaves: Mapping[Path, int] = field(default_factory=dict)

    def given(self, rows: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Mapping[str, Any]]:
        """Hidden states and arguments of the layer. arguments: as for any text of the shape."""
        if not self.slots:
            return rows, arguments
        parts = _parts(self.slots, rows)
        values = {path: self.slots[number].rows.value(parts[number]) for path, number in self.takes.items()}
        return self.slots[0].rows.value(parts[0]), with_tensors(arguments, values)

    def made(self, rows: Tensor, result: Any, arguments: Mapping[str, Any]) -> Tensor:
        """Rows for the next layer. rows, arguments: those of this one; result: what it returned."""
        hidden: Tensor = result[0] if isinstance(result, (tuple, list)) else result
        if not self.slots:
            return hidden.to(rows.dtype)  # some classes add to the stream in float32
        parts = list(_parts(self.slots, rows))
        parts[0] = self.slots[0].rows.stored(hidden, rows)
        for found, value in ((self.makes, result), (self.leaves, arguments)):
            for path, number in found.items():
                parts[number] = self.slots[number].rows.stored(at(value, path), rows)
        return torch.cat(parts, -1)


@dataclass(frozen=True)
class Stream:
    """What goes through all layers of a model.

    width: of a hidden state, where that is the row.
    """

    width: int
    slots: tuple[Slot, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether a row is a token's hidden state, and nothing else."""
        return not self.slots

    def row(self, tokens: int) -> int:
        """Numbers in the row of a token in texts of at most so many."""
        return sum(slot.rows.width(tokens) for slot in self.slots) if self.slots else self.width

    def widest(self, shapes: Iterable[tuple[int, int]]) -> int:
        """Numbers in the widest row of batches of such shapes (batch, tokens)."""
        return self.row(max((tokens for _, tokens in shapes), default=1))

    def step(self, index: int) -> Step:
        """Layer `index`."""
        return self.steps[index] if self.slots else Step()

    def begun(self, hidden: Tensor, arguments: Sequence[Mapping[str, Any]]) -> Tensor:
        """Rows before the first layer. hidden, arguments: what the layers are given for a text."""
        if not self.slots:
            return hidden
        first = self.slots[0].rows
        batch, tokens = (hidden.shape[axis] for axis in first.axes[:2])
        parts = [first.stored(hidden, hidden)]
        for slot in self.slots[1:]:
            if slot.of_text is None:
                parts.append(hidden.new_zeros((batch, tokens, slot.rows.width(tokens))))
            else:
                layer, path = slot.of_text
                parts.append(slot.rows.stored(at(arguments[layer], path), hidden))
        return torch.cat(parts, -1)

    def random(self, tokens: int, generator: torch.Generator) -> Tensor:
        """Rows [1, tokens, numbers] of random values; whole numbers are 0."""
        if not self.slots:
            return torch.randn((1, tokens, self.width), generator=generator)
        widths = [(slot.rows.dtype is None, slot.rows.width(tokens)) for slot in self.slots]
        parts = [
            torch.randn((1, tokens, width), generator=generator)
            if floats
            else torch.zeros((1, tokens, width))
            for floats, width in widths
        ]
        return torch.cat(parts, -1)

    def hidden(self, rows: Tensor) -> Tensor:
        """The hidden states in rows."""
        if not self.slots:
            return rows
        first = self.slots[0].rows
        return first.value(rows[..., : first.width(rows.shape[1])])


def _parts(slots: tuple[Slot, ...], rows: Tensor) -> tuple[Tensor, ...]:
    widths = [slot.rows.width(rows.shape[1]) for slot in slots]
    parts: tuple[Tensor, ...] = rows.split(widths, -1)
    return parts
