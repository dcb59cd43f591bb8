"""The figure of tasks with its interval: documents of each task are drawn apart, and every task counts the same."""

from collections.abc import Mapping

import numpy as np

from quantizer.evaluation.intervals import SEED, Numbers, Ratio
from quantizer.evaluation.measurement import Measurement
from quantizer.evaluation.tasks.requests import Found


def measurement(metric: str, before: Mapping[str, Found], after: Mapping[str, Found]) -> Measurement:
    """Of two models on the same tasks, by task."""
    return Measurement(_mean(before), _mean(after), _resampled(metric, before), _resampled(metric, after))


def _mean(found: Mapping[str, Found]) -> float:
    return float(np.mean([one.value for one in found.values()]))


def _resampled(metric: str, found: Mapping[str, Found]) -> Numbers | None:
    """[resamples]; None where a task has one document only."""
    drawn = [
        ratio(metric, one.documents).resampled(SEED + number) for number, one in enumerate(found.values())
    ]
    values = [one for one in drawn if one is not None]
    if len(values) < len(drawn):
        return None
    mean: Numbers = np.mean(values, axis=0)
    return mean


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
