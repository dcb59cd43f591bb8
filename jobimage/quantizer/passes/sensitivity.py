"""What rounding a part of a model does to its output, measured in one walk over the float model.

Linears that servers compute as one (q, k and v; gate and up; the experts of a layer) are tied: they are rounded alike.
For each tie, in the memory of one decoder layer:

    errors       of every candidate, tr(E H E'), from the Gram matrices of its inputs on the whole calibration set
    divergence   of the whole model's output where this tie alone is rounded, by the probe, one of the candidates

The head, where it is rounded too, is a tie of its own.

For the divergence a few sequences walk along once for each tie that lies behind them, each on its own path: they
leave the float model's path at the tie, and at the head their distributions are compared with that path's. The error
of a layer alone would not do: the same error moves the output a lot in one place and little in another.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from quantization_api.passes import FewTokens
from quantizer.algorithms.gptq.solver import Factored, factor, gptq
from quantizer.algorithms.hessian import weighted_square
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.decoder.batchwise import Batchwise
from quantizer.decoder.model import DecoderLayer, walk_over
from quantizer.formats.interface import HEAD
from quantizer.machine import threads_for, trim_memory
from quantizer.passes.experts import is_nearest
from quantizer.passes.gptq_head import factor_head, read_by_head
from quantizer.passes.gptq_layers import GptqLayerPass, stacked_rows
from quantizer.passes.head_divergence import HEAD_ROWS, Rounds, divergences, judged
from quantizer.passes.interface import FloatModel, HeadContext
from quantizer.passes.rounding import error_baseline, measured_rows
from quantizer.passes.statistics import InputStatistics, gather

WALKING_TOKENS = 2048
"""Of the sequences that measure divergence: 512 gave the same choice on a small Llama."""


@dataclass(frozen=True)
class Tie:
    """Linears that are rounded alike, and what that does."""

    names: tuple[str, ...]
    """Full names."""
    shapes: tuple[tuple[int, int], ...]
    """(N, K) of each."""
    errors: tuple[float, ...]
    """tr(E H E') over its linears, by candidate."""
    divergence: float = 0.0
    """Mean KL in nats, of the model with this tie alone rounded by the probe."""


def tied(stages: Sequence[Stage]) -> list[tuple[SharedInput, ...]]:
    """The inputs of a layer whose readers are rounded alike, in the order in which they run."""
    experts = tuple(
        shared for stage in stages if len(stage.shared_inputs) > 1 for shared in stage.shared_inputs
    )
    alone: list[tuple[SharedInput, ...]] = [
        (stage.shared_inputs[0],) for stage in stages if len(stage.shared_inputs) == 1
    ]
    return [*alone, experts] if experts else alone


def measure(whole: FloatModel, candidates: Sequence[GptqLayerPass], probe: int) -> list[Tie]:
    """Every tie of the model.

    Args:
        whole: the model and its calibration set.
        candidates: passes that are alike for all linears.
        probe: number of the candidate that divergence is measured with.

    Raises:
        QuantizationError: NumericalFailure and DataInsufficient naming a linear.
    """
    with ExitStack() as stack:
        return _Walk(whole, candidates, probe, stack).run()


class _Walk:
    """One walk. stack: closes the stores."""

    def __init__(
        self, whole: FloatModel, candidates: Sequence[GptqLayerPass], probe: int, stack: ExitStack
    ) -> None:
        self.whole, self.model, self.layout = whole, whole.model, whole.model.layout
        self.candidates, self.probe, self.stack = candidates, probe, stack
        self.batches = walking(whole.tokens).batches()
        self.hidden = self._open("hidden", whole.tokens.batches(), stack)
        self.paths: list[ActivationStore] = []
        self.closing: list[ExitStack] = []
        self._new_path()
        for store, batches in ((self.hidden, whole.tokens.batches()), (self.paths[0], self.batches)):
            for number, states in enumerate(self.model.embed(batches)):
                store.write(number, whole.transform.hidden(states))
        self.ties: list[Tie] = []

    def run(self) -> list[Tie]:
        for index, weights in enumerate(self.whole.layers()):
            self._layer(index, self.model.layer(index, weights))
            trim_memory()
            self.whole.on_layer()
        head = self._solve_head() if self.candidates[0].head else None
        with self.whole.timed("calibrate"):
            found = divergences(self.model, self._read_at_head(), head)
        return [
            Tie(tie.names, tie.shapes, tie.errors, one) for tie, one in zip(self.ties, found, strict=True)
        ]

    def _layer(self, index: int, layer: DecoderLayer) -> None:
        stages, behind = layer.stages, list(self.paths)
        with self.whole.timed("calibrate"), walk_over(layer, self.hidden, self.whole.store) as walk:
            found = gather(
                walk,
                stages,
                self.model.device,
                propagate_unrounded=True,
                every_expert=self._few_tokens == "all",
            )
        for tie in tied(stages):
            with self.whole.timed("solve"):
                measured, rounded = self._solve(self.layout.layer_prefix(index), layer, tie, found)
            self.ties.append(measured)
            path = self._new_path()
            with self.whole.timed("calibrate"), _replaced(layer, rounded):
                _forward(layer, self.paths[0], path)
        with self.whole.timed("calibrate"):
            for path in behind:
                _forward(layer, path, path)

    def _solve(
        self,
        prefix: str,
        layer: DecoderLayer,
        tie: Sequence[SharedInput],
        found: dict[SharedInput, InputStatistics],
    ) -> tuple[Tie, dict[str, Tensor]]:
        """What is known of a tie before its divergence, and its linears' weights as the probe rounds them."""
        errors, rounded = [0.0] * len(self.candidates), dict[str, Tensor]()
        names = [name for shared in tie for name in shared.names]
        for shared in tie:
            statistics = found.pop(shared)
            weights = {name: layer.linear(name).weight for name in shared.names}
            nearest = is_nearest(self._few_tokens, shared, statistics.tokens, statistics.inputs)
            if nearest and statistics.tokens == 0:  # no token, no error
                rounded |= _nearest(weights, self.candidates[self.probe])
                continue
            hessian = statistics.hessian(prefix + shared.names[0])
            if nearest:
                for number, candidate in enumerate(self.candidates):
                    errors[number] += sum(
                        _nearest_error(weight, hessian, candidate) for weight in weights.values()
                    )
                rounded |= _nearest(weights, self.candidates[self.probe])
                continue
            with threads_for(sum(weight.numel() for weight in weights.values())):
                factored = factor(hessian, self.candidates[0].config)
                for number, candidate in enumerate(self.candidates):
                    errors[number] += sum(
                        candidate_error(weight, hessian, candidate, factored) for weight in weights.values()
                    )
                rounded |= _rounded(weights, hessian, self.candidates[self.probe], factored)
        shapes = tuple((layer.linear(name).out_features, layer.linear(name).in_features) for name in names)
        return Tie(tuple(prefix + name for name in names), shapes, tuple(errors)), rounded

    @property
    def _few_tokens(self) -> FewTokens:
        return self.candidates[0].few_tokens

    def _solve_head(self) -> Rounds:
        """Adds the head to the ties; rounds slices of its rows by the probe."""
        with self.whole.timed("calibrate"):
            context = HeadContext(self._read_by_head, lambda: iter(()), self.model.device, self.whole.timed)
            hessian, _ = read_by_head(context)
        probe, (outputs, _) = self.candidates[self.probe], self.layout.head_shape
        factored = factor_head(hessian, probe.config)
        with self.whole.timed("solve"):
            rows = self._head_rows(measured_rows(outputs, self.model.device))
            share = outputs / len(rows)
            errors = (candidate_error(rows, hessian, one, factored) * share for one in self.candidates)
            self.ties.append(Tie((HEAD,), (self.layout.head_shape,), tuple(errors)))
        return lambda weight: _rounded({HEAD: weight}, hessian, probe, factored)[HEAD]

    def _final(self, states: Tensor) -> Tensor:
        """What the float model's own head reads of them."""
        return self.model.final(self.whole.transform.back(states))

    def _read_by_head(self) -> Iterator[Tensor]:
        for number in range(len(self.hidden)):
            yield self._final(self.hidden.read(number))

    def _head_rows(self, wanted: Tensor) -> Tensor:
        """Some rows of the head, by their sorted numbers."""
        found = [
            rows[wanted[(wanted >= first) & (wanted < first + len(rows))] - first]
            for first, rows in self.model.table_slices(self.layout.head_name(), HEAD_ROWS)
        ]
        return torch.cat(found)

    def _read_at_head(self) -> list[ActivationStore]:
        """What the head reads on each path, of the positions that are compared; the paths are closed on the way."""
        read = []
        for number, path in enumerate(self.paths):
            finals = [judged(self._final(path.read(batch))) for batch in range(len(path))]
            shapes = [(one.shape[0], one.shape[1]) for one in finals]
            store = self.whole.store(f"float.head-{number}", shapes, self.layout.head_shape[1])
            read.append(self.stack.enter_context(store))
            for batch, states in enumerate(finals):
                store.write(batch, states)
            self.closing[number].close()
        return read

    def _new_path(self) -> ActivationStore:
        """A path more, which can be closed before the others."""
        closing = self.stack.enter_context(ExitStack())
        path = self._open(f"path-{len(self.paths)}", self.batches, closing)
        self.paths.append(path)
        self.closing.append(closing)
        return path

    def _open(self, name: str, batches: Sequence[Tensor], stack: ExitStack) -> ActivationStore:
        shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
        width = self.layout.stream.widest(shapes)
        return stack.enter_context(self.whole.store(f"float.{name}", shapes, width))


def walking(tokens: TokenBatches) -> TokenBatches:
    """The beginnings of some sequences, from all over the calibration set: about WALKING_TOKENS."""
    longest = max(len(sequence) for sequence in tokens.sequences)
    count = min(len(tokens.sequences), max(1, WALKING_TOKENS // longest))
    chosen = [tokens.sequences[number * len(tokens.sequences) // count] for number in range(count)]
    return TokenBatches(tuple(sequence[:WALKING_TOKENS] for sequence in chosen), tokens.batch_tokens)


def candidate_error(weight: Tensor, hessian: Tensor, candidate: GptqLayerPass, factored: Factored) -> float:
    """tr(E H E') of a weight [N, K] as a candidate rounds it, estimated from the rows that errors are measured on."""
    rows = measured_rows(weight.shape[0], weight.device)
    original = weight[rows].float()
    quantized, _ = gptq(original, hessian, candidate.config, factored)
    changed = original - candidate.format.as_read(quantized).float()
    return float(weighted_square(changed, hessian).sum()) * weight.shape[0] / len(rows)


def _rounded(
    weights: Mapping[str, Tensor], hessian: Tensor, candidate: GptqLayerPass, factored: Factored
) -> dict[str, Tensor]:
    """The weights as a reader sees them."""
    stacked = stacked_rows(list(weights.values()))
    quantized, _ = gptq(stacked, hessian, candidate.config, factored)
    seen = candidate.format.as_read(quantized).split([weight.shape[0] for weight in weights.values()])
    return {name: part.to(weight.dtype) for (name, weight), part in zip(weights.items(), seen, strict=True)}


def _nearest_error(weight: Tensor, hessian: Tensor, candidate: GptqLayerPass) -> float:
    """As candidate_error, rounded to nearest."""
    baseline = error_baseline(weight, hessian, candidate.rtn, candidate.format)
    return float(baseline.rtn.sum()) * weight.shape[0] / len(baseline.rows)


def _nearest(weights: Mapping[str, Tensor], candidate: GptqLayerPass) -> dict[str, Tensor]:
    """The weights as a reader sees them, rounded to nearest."""
    return {
        name: candidate.format.as_read(candidate.rtn(weight.float())).to(weight.dtype)
        for name, weight in weights.items()
    }


class _replaced:  # noqa: N801 - a context manager, used like a function
    """The layer with other weights in some linears."""

    def __init__(self, layer: DecoderLayer, weights: Mapping[str, Tensor]) -> None:
        self._layer, self._weights = layer, dict(weights)

    def _swap(self) -> None:
        for name, weight in self._weights.items():
            linear = self._layer.linear(name)
            self._weights[name] = linear.weight.data
            linear.weight = nn.Parameter(weight, requires_grad=False)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def _forward(layer: DecoderLayer, source: ActivationStore, target: ActivationStore) -> None:
    Batchwise(source).each(partial(_run, layer, source, target))


def _run(layer: DecoderLayer, source: ActivationStore, target: ActivationStore, number: int) -> None:
    target.write(number, layer.forward(source.read(number)))
