"""What tasks ask of a model, as tokens; and how that leaves the process that reads the tasks."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Answer = tuple[float, bool]
"""The log-likelihood of a continuation in nats, and whether each of its tokens is the one that the model chooses."""


@dataclass(frozen=True)
class Pair:
    """A continuation, and what stands before it."""

    context: Sequence[int]
    continuation: Sequence[int]

    @classmethod
    def cut(cls, context: Sequence[int], continuation: Sequence[int], most: int) -> "Pair":
        """Without the beginning of a context that is too long for a model that takes `most` tokens.

        Raises:
            ValueError: there is nothing to score, nothing before it, or more than the model takes.
        """
        if not continuation or not context:
            raise ValueError("a document gives an empty continuation or context")
        if len(continuation) > most:
            raise ValueError(f"a continuation has {len(continuation)} tokens; the model takes at most {most}")
        room = most + 1 - len(continuation)
        return cls(context[-room:], continuation)

    @property
    def read(self) -> tuple[int, ...]:
        """What the model reads: the last token is only predicted."""
        return (*self.context, *self.continuation[:-1])


@dataclass(frozen=True)
class Prompt:
    """What a model continues, by at most `new` tokens."""

    ids: Sequence[int]
    new: int


@dataclass
class Requests:
    """Everything that tasks ask, in their order."""

    pairs: list[Pair] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many a model reads at most; equal texts are read once."""
        return sum(len(ids) for ids in {pair.read for pair in self.pairs})

    def packed(self) -> bytes:
        """As numbers: how many pairs and prompts; two lengths or a length and a limit each; all ids."""
        numbers = array("q", [len(self.pairs), len(self.prompts)])
        for pair in self.pairs:
            numbers.extend((len(pair.context), len(pair.continuation)))
        for prompt in self.prompts:
            numbers.extend((len(prompt.ids), prompt.new))
        for pair in self.pairs:
            numbers.extend(pair.context)
            numbers.extend(pair.continuation)
        for prompt in self.prompts:
            numbers.extend(prompt.ids)
        return numbers.tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> "Requests":
        """The same again."""
        numbers = array("q")
        numbers.frombytes(data)
        pairs, prompts = numbers[0], numbers[1]
        lengths = [(numbers[2 + 2 * n], numbers[3 + 2 * n]) for n in range(pairs + prompts)]
        place = 2 + 2 * len(lengths)
        found = cls()
        for context, continuation in lengths[:pairs]:
            middle, end = place + context, place + context + continuation
            found.pairs.append(Pair(numbers[place:middle], numbers[middle:end]))
            place = end
        for length, new in lengths[pairs:]:
            found.prompts.append(Prompt(numbers[place : place + length], new))
            place += length
        return found


@dataclass(frozen=True)
class Suite:
    """Tasks of one folder that are asked in the same way."""

    folder: Path
    size: int
    """Of its files, in bytes."""
    tasks: tuple[str, ...]
    metric: str
    """In lm-eval's words; every task must have it."""
    num_fewshot: int | None = None
    limit: int | None = None
    """Documents of each task, from the first on."""


@dataclass(frozen=True)
class Reader:
    """What a model's text is read with."""

    tokenizer: Path
    """Folder of its files."""
    config: Any
    """The model's, for the length that it takes."""
    scratch: Path


@dataclass(frozen=True)
class Found:
    """The metric of one task."""

    value: float
    """As lm-eval makes it of all documents."""
    documents: list[Any]
    """Of each document: a number, or (log-likelihood, weight)."""
