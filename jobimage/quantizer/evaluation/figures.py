"""The figures of an evaluation, each with what every sequence contributes to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.divergence import BatchDivergence
from quantizer.evaluation.intervals import Numbers, Ratio


@dataclass(frozen=True)
class Sums:
    """Sums over the tokens of each sequence, in the order of the sequences; every array is [sequences] float64."""

    predictions: Numbers
    """Tokens that have a next one."""
    tokens: Numbers
    loss: Numbers
    """-log p(next token), of the candidate."""
    reference_loss: Numbers
    divergence: Numbers
    """KL(reference | candidate), in nats."""
    agreed: Numbers
    """Tokens at which both models choose the same next one."""


@dataclass(frozen=True)
class Evaluation:
    """Figures over all batches."""

    perplexity: float
    """Of the candidate (of the reference, when it is alone), over next-token predictions."""
    reference_perplexity: float
    kl_divergence: float
    """Mean KL(reference | candidate) over all tokens, in nats; 0 for one model alone."""
    top1_agreement: float
    """Share of the tokens at which both models choose the same next one; 1 for one model alone."""
    max_abs_dlogit: float
    """Largest difference of a logit."""
    tokens: int
    """How many tokens were seen."""
    sums: Sums = field(repr=False, compare=False)

    def ratios(self, metric_type: str) -> tuple[Ratio, Ratio]:
        """A metric of the reference and of the candidate, by sequence."""
        sums, nothing = self.sums, np.zeros_like(self.sums.tokens)
        if metric_type == "perplexity":
            return (
                Ratio(sums.reference_loss, sums.predictions, np.exp),
                Ratio(sums.loss, sums.predictions, np.exp),
            )
        if metric_type == "kl_divergence":
            return Ratio(nothing, sums.tokens), Ratio(sums.divergence, sums.tokens)
        if metric_type == "top1_agreement":
            return Ratio(sums.tokens, sums.tokens), Ratio(sums.agreed, sums.tokens)
        raise ValueError(f"not a metric of text: {metric_type}")


def summarize(
    parts: Sequence[BatchDivergence], shapes: Sequence[tuple[int, int]], candidate: int | None
) -> Evaluation:
    """The figures of one candidate over all batches; of the reference where it is None.

    Args:
        shapes: (sequences, tokens) of each batch.

    Raises:
        QuantizationError: NumericalFailure when a figure is not finite.
    """
    sums = _sums(parts, shapes, candidate)
    predictions, tokens = float(sums.predictions.sum()), float(sums.tokens.sum())
    result = Evaluation(
        perplexity=_exp(float(sums.loss.sum()) / predictions),
        reference_perplexity=_exp(float(sums.reference_loss.sum()) / predictions),
        kl_divergence=float(sums.divergence.sum()) / tokens,
        top1_agreement=float(sums.agreed.sum()) / tokens,
        max_abs_dlogit=0.0
        if candidate is None
        else max(part.candidates[candidate].max_difference for part in parts),
        tokens=int(tokens),
        sums=sums,
    )
    figures = (result.perplexity, result.reference_perplexity, result.kl_divergence, result.max_abs_dlogit)
    if not all(math.isfinite(figure) for figure in figures):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"a figure of the evaluation is not finite: {result}"
        )
    return result


def _sums(parts: Sequence[BatchDivergence], shapes: Sequence[tuple[int, int]], candidate: int | None) -> Sums:
    columns: list[list[Tensor]] = []
    for part, (sequences, tokens) in zip(parts, shapes, strict=True):
        reference = part.reference.loss()
        nothing = torch.zeros_like(reference)
        rows = [part.reference.targets >= 0, nothing + 1, reference, reference, nothing, nothing + 1]
        if candidate is not None:
            one = part.candidates[candidate]
            rows[2], rows[4], rows[5] = one.logits.loss(), one.divergence(), one.agrees()
        columns.append([row.double().reshape(sequences, tokens).sum(1) for row in rows])
    return Sums(*(torch.cat(column).cpu().numpy() for column in zip(*columns, strict=True)))


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
