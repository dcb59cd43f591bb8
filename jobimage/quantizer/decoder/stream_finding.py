"""Finds what goes through the layers of a model beside hidden states, and how each of it lies in rows of tokens.

The model around the layers is run on texts of other shapes: an axis that grows with the batch is that of the batch, and
one that grows with the text that of the tokens. What a layer is given is the same for every text, or made of the text
before the layers, or just what an earlier layer returned or left behind. Anything else is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantizer.decoder.context import Arguments
from quantizer.decoder.nested import Path, at, tensors_in
from quantizer.decoder.stream import Rows, Slot, Step, Stream

SHAPES = ((1, 6), (2, 6), (1, 7))
"""(batch, tokens) of the texts that are compared: the first, and each of its sizes larger by one."""


class NotKeptError(Exception):
    """What the layers take cannot be kept in rows; the message is the end of a sentence about the model."""


@dataclass(frozen=True)
class Seen:
    """A forward of the model around its layers.

    hidden: before the first layer. arguments: of each layer. made, left: what each returned, and left behind in its
    arguments, without values; None or nothing where that is not known.
    """

    hidden: Tensor
    arguments: Sequence[Arguments]
    made: Sequence[Any]
    left: Sequence[Mapping[str, Any]]


@dataclass
class _Slots:
    """Slots under construction, by what they are for."""

    slots: list[Slot] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)

    def number(self, key: Any, slot: Slot, what: str) -> int:
        if key not in self.numbers:
            self.numbers[key] = len(self.slots)
            self.slots.append(slot)
        found = self.numbers[key]
        if self.slots[found].rows != slot.rows:
            raise NotKeptError(f"{what}, which has another shape in another layer")
        return found


@dataclass(frozen=True)
class _Place:
    """A place in what a layer returns, or in the arguments that it leaves something in."""

    path: Path
    returned: bool


@dataclass(frozen=True)
class _Origin:
    """Where a tensor without values comes from: layer `index`, and where it puts it."""

    index: int
    place: _Place


def find_stream(width: int, seen: Sequence[Seen], of_text: Sequence[set[Path]]) -> Stream:
    """The stream.

    Args:
        width: of a hidden state, as config.json says it.
        seen: a forward with a text of each of SHAPES.
        of_text: for each layer, the arguments that differ from text to text of one shape.

    Raises NotKeptError.
    """
    made = _Slots()
    what = "its layers take hidden states"
    made.number("hidden", Slot(_rows([one.hidden for one in seen], what)), what)
    origins, makers = _origins(seen[0]), dict[_Place, int]()
    steps: list[dict[Path, int]] = []
    for index, arguments in enumerate(seen[0].arguments):
        takes: dict[Path, int] = {}
        for path, value in tensors_in(arguments):
            what = f"layer {index} takes {path[0]}"
            if value.is_meta:
                origin = _origin_of(origins.get(id(value), []), index, makers, what)
                values = [_of_origin(one, origin) for one in seen]
                takes[path] = made.number(origin.place, Slot(_rows(values, what)), what)
            elif path in of_text[index]:
                values = [at(one.arguments[index], path) for one in seen]
                takes[path] = made.number(id(value), Slot(_rows(values, what), (index, path)), what)
        makers |= {one.place: index for found in origins.values() for one in found if one.index == index}
        steps.append(takes)
    return _stream(width, made, steps, [one for found in origins.values() for one in found])


def _stream(width: int, made: _Slots, steps: list[dict[Path, int]], origins: list[_Origin]) -> Stream:
    """The stream in which each layer makes what some layer takes."""
    slots = tuple(made.slots)
    makes: list[dict[bool, dict[Path, int]]] = [{True: {}, False: {}} for _ in steps]
    for origin in origins:
        if (number := made.numbers.get(origin.place)) is not None:
            makes[origin.index][origin.place.returned][origin.place.path] = number
    full = (Step(slots, takes, found[True], found[False]) for takes, found in zip(steps, makes, strict=True))
    return Stream(width, slots, tuple(full))


def _origin_of(origins: list[_Origin], index: int, makers: Mapping[_Place, int], what: str) -> _Origin:
    """Which earlier layer something is from: the last that made it, or handed it on."""
    origin = max((one for one in origins if one.index < index), key=lambda one: one.index, default=None)
    if origin is None:
        raise NotKeptError(f"{what}, which is made of what earlier layers make")
    if makers.get(origin.place) != origin.index:
        raise NotKeptError(f"{what}, which a layer before the last one makes")
    return origin


def _origins(seen: Seen) -> dict[int, list[_Origin]]:
    """Where tensors without values come from, by their identity."""
    found: dict[int, list[_Origin]] = {}
    for index, (returned, left) in enumerate(zip(seen.made, seen.left, strict=True)):
        behind = returned[1:] if isinstance(returned, (tuple, list)) else ()
        for path, value in tensors_in(behind):
            place = _Place((int(path[0]) + 1, *path[1:]), True)
            found.setdefault(id(value), []).append(_Origin(index, place))
        for path, value in tensors_in(left):
            found.setdefault(id(value), []).append(_Origin(index, _Place(path, False)))
    return found


def _of_origin(seen: Seen, origin: _Origin) -> Tensor:
    value: Tensor = at((seen.made if origin.place.returned else seen.left)[origin.index], origin.place.path)
    return value


def _rows(values: Sequence[Any], what: str) -> Rows:
    """How a tensor lies in rows, from what it is for each of SHAPES."""
    first, batches, longer = (tuple(value.shape) for value in values)
    if not len(first) == len(batches) == len(longer):
        raise NotKeptError(f"{what}, with another number of axes for another text")
    of_batch = [axis for axis, (one, two) in enumerate(zip(first, batches, strict=True)) if one != two]
    of_text = [axis for axis, (one, two) in enumerate(zip(first, longer, strict=True)) if one != two]
    sizes = {axis: (first[axis], batches[axis], longer[axis]) for axis in (*of_batch, *of_text)}
    grows = len(of_text) == 2
    fits = all(sizes[axis] == (1, 2, 1) for axis in of_batch) and all(
        sizes[axis] == (SHAPES[0][1], SHAPES[1][1], SHAPES[2][1]) for axis in of_text
    )
    if len(of_batch) != 1 or len(of_text) not in (1, 2) or not fits:
        raise NotKeptError(f"{what} {list(first)} for {SHAPES[0][1]} tokens, and not a row for each token")
    moved = (of_batch[0], of_text[0])
    others = [axis for axis in range(len(first)) if axis not in (*moved, *of_text)]
    whole = not values[0].is_floating_point()
    return Rows(
        (*moved, *others, *of_text[1:]),
        tuple(first[axis] for axis in others),
        grows,
        values[0].dtype if whole else None,
    )


def differing(one: Any, other: Any) -> set[Path]:
    """Where nested dicts, lists and tuples, with tensors in the same places, have some of other values."""
    theirs = dict(tensors_in(other))
    return {
        path
        for path, value in tensors_in(one)
        if not value.is_meta and (theirs[path].shape != value.shape or not torch.equal(value, theirs[path]))
    }
