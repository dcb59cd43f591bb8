"""The figure of tasks with its interval: every task counts the same, and documents are drawn from all of them."""

from collections.abc import Mapping

import numpy as np

from quantizer.evaluation.intervals import Ratio
from quantizer.evaluation.measurement import Measurement
from quantizer.evaluation.tasks.requests import Found


def measurement(metric: str, before: Mapping[str, Found], after: Mapping[str, Found]) -> Measurement:
    """Of two models on the same tasks, by task."""
    return Measurement.of(mean(metric, before), mean(metric, after))


def mean(metric: str, found: Mapping[str, Found]) -> Ratio:
    """The mean over tasks; of perplexities the geometric one.

    What a document counts is divided by what all of its task count, so that a task with many documents weighs no more.
    """
    tasks = [ratio(metric, one.documents) for one in found.values()]
    return Ratio(
        np.concatenate([one.above / one.below.sum() for one in tasks]),
        np.concatenate([one.below / one.below.sum() for one in tasks]),
        tasks[0].finish,
    )


def ratio(metric: str, documents: list[float] | list[tuple[float, float]]) -> Ratio:
    """What lm-eval aggregates of documents, as sums over them.

    documents: a number each, or (log-likelihood, words or bytes) for the metrics of whole texts.
    """
    values = np.asarray(documents, dtype=np.float64)
    if metric in ("word_perplexity", "byte_perplexity"):
        return Ratio(-values[:, 0], values[:, 1], np.exp)
    if metric == "bits_per_byte":
        return Ratio(-values[:, 0] / np.log(2), values[:, 1])
    if metric == "perplexity":
        return Ratio(-values, np.ones_like(values), np.exp)
    return Ratio(values, np.ones_like(values))
