"""Evaluation in the memory of one decoder layer.

Each model is run layer by layer over all batches, its hidden states kept on scratch; then both heads are
applied slice by slice. A quantized model is read back from its own format, so a figure here is also a
check of what was written.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.divergence import BatchDivergence
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import Source
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.batchwise import Batchwise
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.figures import Evaluation, summarize
from quantizer.evaluation.views import FloatView, RtnBaseline, RtnView, RunnableLayer, View, open_view
from quantizer.evaluation.walked import Walked
from quantizer.machine import trim_memory

HEAD_ROWS = 512  # vocabulary entries whose logits exist at a time

Known = tuple[Walked, str]
"""Where the reference ended before, and the name of the text."""
OnProgress = Callable[[str, int, int], None]
"""Called with ("evaluate", layers done, layers in all) after each layer of each model, and with
("heads", vocabulary entries done, entries in all) while the heads are applied."""


def evaluate(
    reference: DecoderLayout,
    quantized: Source | None,
    tokens: TokenBatches,
    device: torch.device,
    on_progress: OnProgress,
    scratch: Path,
    modules: ModuleNames | None = None,
    known: Known | None = None,
) -> Evaluation:
    """Perplexity of a model, or of a quantized one beside the model it was made from.

    known: where the reference ended on texts before.

    Raises:
        QuantizationError: ArtifactCorrupt for the quantized model, ModelUnsupported for code of its own,
            NumericalFailure when a figure is not finite, DataInsufficient without a token to predict.
    """
    candidate = open_view(quantized, device, modules) if quantized is not None else None
    candidates = [] if candidate is None else [candidate]
    return compare_all(FloatView(reference, device), candidates, tokens, on_progress, scratch, known)[0]


def evaluate_beside_rtn(
    reference: DecoderLayout,
    quantized: Source,
    baseline: RtnBaseline,
    tokens: TokenBatches,
    device: torch.device,
    on_progress: OnProgress,
    scratch: Path,
    modules: ModuleNames | None = None,
    known: Known | None = None,
) -> tuple[Evaluation, Evaluation]:
    """The figures of a quantized model, and those of RTN with as many bits: what it has to beat.

    Where RTN was measured before on the text, beside `known`, its figures are those.
    """
    model, view = FloatView(reference, device), open_view(quantized, device, modules)
    rule = (*baseline.rule, modules)
    if known is not None and (rtn := known[0].rtn(known[1], rule)) is not None:
        return compare_all(model, [view], tokens, on_progress, scratch, known)[0], rtn
    candidates = [view, RtnView(reference, baseline, device)]
    ours, rtn = compare_all(model, candidates, tokens, on_progress, scratch, known)
    if known is not None:
        known[0].keep_rtn(known[1], rule, rtn)
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
    known: Known | None = None,
) -> list[Evaluation]:
    """Runs the reference and every candidate over the batches: the figures of each, or of the reference alone.

    known: where the reference ended before; it is not run again on the same text.

    Raises as evaluate does.
    """
    batches = tokens.batches()
    if all(batch.shape[1] < 2 for batch in batches):
        raise QuantizationError(Category.DATA_INSUFFICIENT, "no sequence has a second token to predict")
    parts = _run([reference, *candidates], batches, on_progress, scratch, known)
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    return [summarize(parts, shapes, number) for number in (range(len(candidates)) if candidates else [None])]


def has_finite_logits(view: View, tokens: TokenBatches, on_progress: OnProgress, scratch: Path) -> bool:
    """Whether every logit that a model computes is a number, in the data type that the view computes in."""
    parts = _run([view], tokens.batches(), on_progress, scratch)
    return all(bool(part.reference.log_sum_exp().isfinite().all()) for part in parts)


def _run(
    views: list[View],
    batches: list[Tensor],
    on_progress: OnProgress,
    scratch: Path,
    known: Known | None = None,
) -> list[BatchDivergence]:
    """Runs the models, the first of which is the reference, and gathers what each batch contributes."""
    total = sum(view.model.layout.layers for view in views)
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    with torch.inference_mode(), ExitStack() as stack:
        stores: list[ActivationStore] = []
        done = 0
        for number, view in enumerate(views):
            tell = partial(_tell, on_progress, done, total)
            if number == 0 and known is not None:
                stores.append(_known_end(view, batches, shapes, known, tell))
            else:
                model, path = view.model, scratch / f"evaluation-{number}.hidden"
                width = model.layout.stream.widest(shapes)
                hidden = ActivationStore(path, shapes, width, model.dtype, model.device)
                stores.append(stack.enter_context(hidden))
                _walk_to_the_end(view, batches, hidden, tell)
            done += view.model.layout.layers
        parts = [BatchDivergence(_targets(batch, views[0].model.device), len(views) - 1) for batch in batches]
        _apply_heads(views, stores, parts, on_progress)
        return parts


def _known_end(
    view: View,
    batches: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    known: Known,
    tell: Callable[[int], None],
) -> ActivationStore:
    """Where the reference ends: it is run at the first evaluation only."""
    walked, text = known
    hidden = walked.store(text, shapes, view.model)
    if not walked.has(text):
        _walk_to_the_end(view, batches, hidden, tell)
        walked.filled(text)
    tell(view.model.layout.layers)
    return hidden


def _walk_to_the_end(
    view: View, batches: Sequence[Tensor], hidden: ActivationStore, tell: Callable[[int], None]
) -> None:
    """Fills `hidden` with what the heads read."""
    walk_layers(view, batches, hidden, tell)
    for index in range(len(hidden)):
        hidden.write(index, view.model.final(hidden.read(index)))


def walk_layers(
    view: View, batches: Sequence[Tensor], hidden: ActivationStore, on_layer: Callable[[int], None]
) -> None:
    """Fills `hidden` with what the last layer makes of batches of token ids [batch, tokens].

    on_layer: called with the number of layers that are done.
    """
    for index, batch in enumerate(view.model.embed(batches)):
        hidden.write(index, batch)
    batchwise = Batchwise(hidden)
    for done, layer in enumerate(view.layers(), start=1):
        batchwise.each(partial(_forward, layer, hidden))
        trim_memory()
        on_layer(done)


def _tell(on_progress: OnProgress, before: int, total: int, done: int) -> None:
    on_progress("evaluate", before + done, total)


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
