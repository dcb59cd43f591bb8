"""What the searches found, as the generated part of docs/tuning.md. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.tuning_guide.questions import METRICS, QUESTIONS, Question, written

from quantization_api.manifest import TrialRecord
from quantization_api.status import MetricResult

BEGIN, END = "<!-- figures: begin; written by `make tuning-guide` -->", "<!-- figures: end -->"
HEAD = ("model", "setting", "KL divergence", "perplexity", "top-1 agreement", "bits per weight", "size, MB")
FORMS = {"kl_divergence": "#.3g", "perplexity": ".2f", "top1_agreement": ".3f"}
MODELS_HEAD = ("model", "architecture", "parameters", "perplexity", "what it is")
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


def section(found: Found, models: Sequence[Described], questions: Sequence[Question] = QUESTIONS) -> str:
    """The generated part, between its markers."""
    rows = [
        (one.name, one.architecture, f"{one.parameters / 1e6:.1f} M", f"{one.perplexity:.2f}", one.origin)
        for one in models
    ]
    parts = [BEGIN, "", "## The models", "", *_table(MODELS_HEAD, rows, "llrrl")]
    for question in questions:
        if trials := found.get(question.name):
            parts += ["", f"## {question.title}", "", *_table(HEAD, list(_rows(question, trials)), "llrrrrr")]
            parts += list(_refusals(question, trials))
    return "\n".join([*parts, "", END])


def with_section(page: str, made: str) -> str:
    """The page with another generated part.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return before + made + after


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
                yield f"\nNot measured: {setting(question, one)} of {model}. {one.said}"


def _figure(metric: MetricResult) -> str:
    """A value with its interval."""
    if metric.output is None:
        return "-"
    form = FORMS[metric.name]
    shown = format(metric.output, form)
    if metric.low is None or metric.high is None:
        return shown
    return f"{shown} ({metric.low:{form}} to {metric.high:{form}})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if side == 'r' else '---' for side in align)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
