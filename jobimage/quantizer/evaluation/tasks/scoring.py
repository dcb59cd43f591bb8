"""All requests of all tasks walk the layers together: log-likelihoods in the memory of one layer.

Requests that read the same tokens, such as a question whose choices are letters, are one sequence. Sequences of equal
length go together, so none is padded. Behind the last layer only the places that predict a continuation are kept.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quantizer.algorithms.divergence import Logits
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.batchwise import Batchwise
from quantizer.evaluation.streamed import HEAD_ROWS, OnProgress, walk_layers
from quantizer.evaluation.tasks.requests import Answer, Pair
from quantizer.evaluation.views import View


class Plan:
    """Which sequences are run for some pairs, and where in them each pair's continuation is predicted."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        read = [pair.read for pair in pairs]
        unique = sorted(set(read), key=lambda ids: (len(ids), ids))
        self.batches = TokenBatches(tuple(torch.tensor(ids) for ids in unique)).batches()
        places = {}
        rows = ((batch, row) for batch, ids in enumerate(self.batches) for row in range(ids.shape[0]))
        for ids, place in zip(unique, rows, strict=True):
            places[ids] = place
        self._picks: list[list[tuple[int, int]]] = [[] for _ in self.batches]
        self._targets: list[list[int]] = [[] for _ in self.batches]
        self._spans: list[tuple[int, int, int]] = []
        for pair, ids in zip(pairs, read, strict=True):
            batch, row = places[ids]
            start = len(self._picks[batch])
            length = len(pair.continuation)
            self._picks[batch] += [(row, place) for place in range(len(ids) - length, len(ids))]
            self._targets[batch] += pair.continuation
            self._spans.append((batch, start, start + length))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(sequences, tokens) of each batch."""
        return [(batch.shape[0], batch.shape[1]) for batch in self.batches]

    @property
    def kept(self) -> list[tuple[int, int]]:
        """(1, places) that are kept of each batch behind the last layer."""
        return [(1, len(picks)) for picks in self._picks]

    def picked(self, batch: int, states: Tensor) -> Tensor:
        """The places of a batch that predict something: [sequences, tokens, width] to [1, places, width]."""
        rows, places = torch.tensor(self._picks[batch], device=states.device).T
        return states[rows, places].unsqueeze(0)

    def targets(self, batch: int, device: torch.device) -> Tensor:
        """The token to predict at each place."""
        return torch.tensor(self._targets[batch], dtype=torch.int64, device=device)

    def answers(self, found: Sequence[Logits]) -> list[Answer]:
        """Of each pair: the sum over its tokens, and whether all of them are chosen."""
        likelihoods = [(-one.loss()).cpu() for one in found]
        chosen = [(one.choice == one.targets).cpu() for one in found]
        return [
            (float(likelihoods[batch][start:end].sum()), bool(chosen[batch][start:end].all()))
            for batch, start, end in self._spans
        ]


def score(view: View, pairs: Sequence[Pair], on_progress: OnProgress, scratch: Path) -> list[Answer]:
    """The answers of a model, in the order of the pairs."""
    if not pairs:
        return []
    plan, model = Plan(pairs), view.model
    with torch.inference_mode(), ExitStack() as stack:
        kept = stack.enter_context(
            ActivationStore(scratch / "tasks.kept", plan.kept, model.layout.width, model.dtype, model.device)
        )
        width = model.layout.stream.widest(plan.shapes)
        with ActivationStore(
            scratch / "tasks.hidden", plan.shapes, width, model.dtype, model.device
        ) as hidden:
            done = partial(_layer_done, on_progress, model.layout.layers)
            walk_layers(view, plan.batches, hidden, done)
            for batch in range(len(hidden)):
                kept.write(batch, plan.picked(batch, model.final(hidden.read(batch))))
        found = [Logits(plan.targets(batch, model.device)) for batch in range(len(kept))]
        for first, rows in model.table_slices(model.layout.head_name(), HEAD_ROWS):
            Batchwise(kept).each(partial(_update, view, kept, found, first, rows))
            vocabulary = model.layout.vocabulary
            on_progress("heads", min(first + HEAD_ROWS, vocabulary), vocabulary)
        return plan.answers(found)


def _layer_done(on_progress: OnProgress, layers: int, done: int) -> None:
    on_progress("evaluate", done, layers)


def _update(
    view: View, kept: ActivationStore, found: Sequence[Logits], first: int, rows: Tensor, batch: int
) -> None:
    found[batch].update(first, view.model.logits(kept.read(batch), first, rows).flatten(0, 1))
