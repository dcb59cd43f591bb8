"""Evaluation in the memory of one decoder layer.

Each model is run layer by layer over all batches, its hidden states kept on scratch; then both heads are
applied slice by slice. A quantized model is read back from its own format, so a figure here is also a
check of what was written.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.divergence import BatchDivergence, Candidate, Logits
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import Source
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.batchwise import Batchwise
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.views import FloatView, RtnBaseline, RtnView, RunnableLayer, View, open_view
from quantizer.machine import trim_memory

HEAD_ROWS = 512  # vocabulary entries whose logits exist at a time

OnProgress = Callable[[str, int, int], None]
"""Called with ("evaluate", layers done, layers in all) after each layer of each model, and with
("heads", vocabulary entries done, entries in all) while the heads are applied."""


@dataclass(frozen=True)
class Evaluation:
    """Figures over all batches."""

    perplexity: float
    """Of the candidate (of the reference, when it is alone), over next-token predictions."""
    reference_perplexity: float
    kl_divergence: float
    """Mean KL(reference | candidate) over all tokens, in nats; 0 for one model alone."""
    max_abs_dlogit: float
    """Largest difference of a logit."""
    tokens: int
    """How many tokens were seen."""


def evaluate(
    reference: DecoderLayout,
    quantized: Source | None,
    tokens: TokenBatches,
    device: torch.device,
    on_progress: OnProgress,
    scratch: Path,
    modules: ModuleNames | None = None,
) -> Evaluation:
    """Perplexity of a model, or of a quantized one beside the model it was made from.

    Raises:
        QuantizationError: ArtifactCorrupt for the quantized model, ModelUnsupported for code of its own,
            NumericalFailure when a figure is not finite, DataInsufficient without a token to predict.
    """
    candidate = open_view(quantized, device, modules) if quantized is not None else None
    return compare(FloatView(reference, device), candidate, tokens, on_progress, scratch)


def evaluate_beside_rtn(
    reference: DecoderLayout,
    quantized: Source,
    baseline: RtnBaseline,
    tokens: TokenBatches,
    device: torch.device,
    on_progress: OnProgress,
    scratch: Path,
    modules: ModuleNames | None = None,
) -> tuple[Evaluation, Evaluation]:
    """The figures of a quantized model, and those of RTN with as many bits: what it has to beat."""
    candidates = [open_view(quantized, device, modules), RtnView(reference, baseline, device)]
    ours, rtn = compare_all(FloatView(reference, device), candidates, tokens, on_progress, scratch)
    return ours, rtn


def compare(
    reference: View, candidate: View | None, tokens: TokenBatches, on_progress: OnProgress, scratch: Path
) -> Evaluation:
    """Runs one or two models over the batches; see evaluate."""
    candidates = [] if candidate is None else [candidate]
    return compare_all(reference, candidates, tokens, on_progress, scratch)[0]


def compare_all(
    reference: View,
    candidates: Sequence[View],
    tokens: TokenBatches,
    on_progress: OnProgress,
    scratch: Path,
) -> list[Evaluation]:
    """Runs the reference and every candidate over the batches: the figures of each, or of the reference alone.

    Raises as evaluate does.
    """
    predictions = sum(batch.shape[0] * (batch.shape[1] - 1) for batch in tokens.batches())
    if predictions == 0:
        raise QuantizationError(Category.DATA_INSUFFICIENT, "no sequence has a second token to predict")
    parts = _run([reference, *candidates], tokens.batches(), on_progress, scratch)
    references = [part.reference for part in parts]
    by_candidate = [[part.candidates[number] for part in parts] for number in range(len(candidates))]
    return [_summarize(references, group, predictions, tokens.tokens) for group in by_candidate or [[]]]


def has_finite_logits(view: View, tokens: TokenBatches, on_progress: OnProgress, scratch: Path) -> bool:
    """Whether every logit that a model computes is a number, in the data type that the view computes in."""
    parts = _run([view], tokens.batches(), on_progress, scratch)
    return all(bool(part.reference.log_sum_exp().isfinite().all()) for part in parts)


def _run(
    views: list[View], batches: list[Tensor], on_progress: OnProgress, scratch: Path
) -> list[BatchDivergence]:
    """Runs the models, the first of which is the reference, and gathers what each batch contributes."""
    total = sum(view.model.layout.layers for view in views)
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    with torch.inference_mode(), ExitStack() as stack:
        stores: list[ActivationStore] = []
        done = 0
        for number, view in enumerate(views):
            model = view.model
            path = scratch / f"evaluation-{number}.hidden"
            hidden = stack.enter_context(
                ActivationStore(path, shapes, model.layout.width, model.dtype, model.device)
            )
            for index, batch in enumerate(model.embed(batches)):
                hidden.write(index, batch)
            batchwise = Batchwise(hidden)
            for layer in view.layers():
                batchwise.each(partial(_forward, layer, hidden))
                trim_memory()
                done += 1
                on_progress("evaluate", done, total)
            for index in range(len(hidden)):
                hidden.write(index, model.final(hidden.read(index)))
            stores.append(hidden)
        parts = [BatchDivergence(_targets(batch, views[0].model.device), len(views) - 1) for batch in batches]
        _apply_heads(views, stores, parts, on_progress)
        return parts


def _forward(layer: RunnableLayer, hidden: ActivationStore, index: int) -> None:
    hidden.write(index, layer.forward(hidden.read(index)))


def _targets(batch: Tensor, device: torch.device) -> Tensor:
    following = torch.full_like(batch, -1)
    following[:, :-1] = batch[:, 1:]
    return following.reshape(-1).to(device)


def _apply_heads(
    views: list[View], stores: list[ActivationStore], parts: list[BatchDivergence], on_progress: OnProgress
) -> None:
    vocabulary = views[0].model.layout.vocabulary
    batchwise = Batchwise(stores[0])
    heads = [view.model.table_slices(view.model.layout.head_name(), HEAD_ROWS) for view in views]
    for slices in zip(*heads, strict=True):

        def update(index: int, slices: Sequence[tuple[int, Tensor]] = slices) -> None:
            reference, *others = [
                view.model.logits(store.read(index), first, rows).flatten(0, 1)
                for view, store, (first, rows) in zip(views, stores, slices, strict=True)
            ]
            parts[index].update(slices[0][0], reference, others)

        batchwise.each(update)
        on_progress("heads", min(slices[0][0] + HEAD_ROWS, vocabulary), vocabulary)


def _summarize(
    references: list[Logits], candidates: list[Candidate], predictions: int, tokens: int
) -> Evaluation:
    """The figures of one candidate over all batches; of the reference where there is none."""
    loss = sum(float(logits.loss()) for logits in references) / predictions
    other = sum(float(one.logits.loss()) for one in candidates) / predictions if candidates else loss
    divergence = sum(float(one.divergence()) for one in candidates) / tokens
    difference = max((one.max_difference for one in candidates), default=0.0)
    result = Evaluation(_exp(other), _exp(loss), divergence, difference, tokens)
    figures = (result.perplexity, result.reference_perplexity, result.kl_divergence, result.max_abs_dlogit)
    if not all(math.isfinite(figure) for figure in figures):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"a figure of the evaluation is not finite: {result}"
        )
    return result


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
