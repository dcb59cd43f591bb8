"""How far a model's output moves on paths beside the float model's own: KL at the head, over the whole vocabulary.

The head is read once, block by block. In a block one path after another is compared, slice by slice of the vocabulary,
so what is held grows neither with the number of paths (some for each layer) nor with the vocabulary, and what a path
has for the head is read once a block.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantizer.algorithms.divergence import BatchDivergence, Candidate
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.model import DecoderModel

JUDGED = 4
"""Of so many positions the output of one is compared."""
HEAD_ROWS = 512  # vocabulary entries whose logits exist at a time, of each path but the float model's
BLOCK_ROWS = 16 * HEAD_ROWS
"""Of the head that are read, and rounded, at a time: the solver is slow on few rows."""

Rounds = Callable[[Tensor], Tensor]
"""Some rows of a weight [n, K] -> those rows as a reader sees them, rounded."""


@dataclass(frozen=True)
class _Slice:
    """Some vocabulary entries from `first`: rows of the head, and the float model's logits."""

    first: int
    rows: Tensor
    reference: Tensor
    weights: Tensor
    decay: Tensor
    """The last two as BatchDivergence's sums take them."""


def judged(states: Tensor) -> Tensor:
    """The positions [batch, positions, ...] that are compared: the last ones of each JUDGED."""
    return states[:, JUDGED - 1 :: JUDGED] if states.shape[1] >= JUDGED else states


def divergences(model: DecoderModel, paths: Sequence[ActivationStore], head: Rounds | None) -> list[float]:
    """Mean KL in nats of every path but the first, from that one; and of the first where the head is rounded by `head`.

    paths: what the head reads on each, of the judged positions.
    """
    others = len(paths) - 1 + (head is not None)
    targets = [torch.full((batch * tokens,), -1, device=model.device) for batch, tokens in paths[0].shapes]
    parts = [BatchDivergence(target, others) for target in targets]
    for first, rows in model.table_slices(model.layout.head_name(), BLOCK_ROWS):
        seen = None if head is None else head(rows)
        for number, part in enumerate(parts):
            read = paths[0].read(number)
            block = list(_slices(model, part, read, first, rows))
            for path, candidate in zip(paths[1:], part.candidates, strict=head is None):
                _compare(model, candidate, path.read(number), block)
            if seen is not None:
                rounded = [replace(one, rows=seen[one.first - first :][: len(one.rows)]) for one in block]
                _compare(model, part.candidates[-1], read, rounded)
    tokens = sum(len(target) for target in targets)
    return [
        sum(float(part.candidates[number].divergence().sum()) for part in parts) / tokens
        for number in range(others)
    ]


def _slices(
    model: DecoderModel, part: BatchDivergence, read: Tensor, first: int, rows: Tensor
) -> Iterator[_Slice]:
    """A block of the head in slices, with the float model's logits."""
    for at in range(0, len(rows), HEAD_ROWS):
        own = rows[at : at + HEAD_ROWS]
        logits = model.logits(read, first + at, own).flatten(0, 1)
        yield _Slice(first + at, own, logits, *part.reference.update(first + at, logits))


def _compare(model: DecoderModel, candidate: Candidate, read: Tensor, block: Sequence[_Slice]) -> None:
    for one in block:
        logits = model.logits(read, one.first, one.rows).flatten(0, 1)
        candidate.update(one.first, logits, one.reference, one.weights, one.decay)
