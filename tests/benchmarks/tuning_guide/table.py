"""What the searches found, as tables of docs/tuning.md. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.tuning_guide.page import MODELS, Table, Tables, not_measured
from tests.benchmarks.tuning_guide.questions import METRICS, QUESTIONS, Question, written

from quantization_api.manifest import TrialRecord
from quantization_api.status import MetricResult

FORMS = {"kl_divergence": "#.3g", "perplexity": ".2f", "top1_agreement": ".3f"}
SETTING = re.compile(r"`([a-z_0-9]+: [^`]+|[A-Z][A-Za-z]+)`")
"""A parameter with its value, or a pass."""


@dataclass(frozen=True)
class Described:
    """A model, as the page shows it; perplexity before quantization."""

    name: str
    architecture: str
    parameters: int
    perplexity: float
    origin: str


Found = Mapping[str, Mapping[str, Sequence[TrialRecord]]]
"""Trials by name of the question and name of the model."""


def setting(question: Question, trial: TrialRecord) -> str:
    """What was chosen, as a manifest writes it."""
    parts = []
    for name, value in trial.parameters.items():
        label = question.labels.get(str(value))
        parts.append(label or written({name.rpartition(".")[2]: value}))
    return ", ".join(parts)


def tables(found: Found, models: Sequence[Described], questions: Sequence[Question] = QUESTIONS) -> Tables:
    """The tables of some questions and models."""
    rows = [
        (one.name, one.architecture, f"{one.parameters / 1e6:.1f} M", f"{one.perplexity:.2f}", one.origin)
        for one in models
    ]
    made = {MODELS: Table(rows)}
    for question in questions:
        if trials := found.get(question.name):
            made[question.title] = Table(list(_rows(question, trials)), list(_refusals(question, trials)))
    return made


def settings_of(words: str) -> set[str]:
    """The settings that a text names: `bits: 4`, `QuaRot`."""
    return set(SETTING.findall(words))


def _rows(question: Question, trials: Mapping[str, Sequence[TrialRecord]]) -> Iterator[tuple[str, ...]]:
    for model, records in trials.items():
        for one in records:
            if one.state != "Finished" or one.size_bytes is None:
                continue
            metrics = {metric.name: metric for metric in one.metrics}
            figures = (_figure(metrics[name]) for name in METRICS)
            bits = "-" if one.bits_per_weight is None else f"{one.bits_per_weight:.2f}"
            yield (model, setting(question, one), *figures, bits, f"{one.size_bytes / 1e6:.1f}")


def _refusals(question: Question, trials: Mapping[str, Sequence[TrialRecord]]) -> Iterator[str]:
    for model, records in trials.items():
        for one in records:
            if one.state != "Finished":
                yield not_measured(setting(question, one), model, one.said)


def _figure(metric: MetricResult) -> str:
    """A value with its interval."""
    if metric.output is None:
        return "-"
    form = FORMS[metric.name]
    shown = format(metric.output, form)
    if metric.low is None or metric.high is None:
        return shown
    return f"{shown} ({metric.low:{form}} to {metric.high:{form}})"
