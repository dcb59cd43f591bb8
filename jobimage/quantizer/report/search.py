"""A search in the report: which setting won and what it costs, the Pareto front, and every point that was tried."""

from collections import Counter
from collections.abc import Sequence

from quantization_api.manifest import Manifest, TrialRecord
from quantization_api.status import MetricResult, TrialState
from quantizer.passes.making import recorded_pass
from quantizer.progress.lines import duration
from quantizer.report.differing import points_apart
from quantizer.report.measures import Measure, measures
from quantizer.report.page import folded, table, text
from quantizer.report.points import PASSES, setting
from quantizer.report.quality import format_change
from quantizer.report.sizes import change, megabytes

ENDED: dict[TrialState, str] = {
    "Finished": "finished",
    "Stopped": "stopped early",
    "Failed": "failed",
    "Refused": "refused",
}


def winner(manifest: Manifest) -> TrialRecord | None:
    """The point that was chosen; None without a search."""
    return next((trial for trial in manifest.trials if trial.best), None)


def search_verdict(manifest: Manifest) -> str:
    """What won and what it costs: "GPTQ, 4 bits won: perplexity +4.9 %, 3.90 times smaller; 24 points tried, ..."."""
    trial = winner(manifest)
    if trial is None:
        return ""
    found = {result.name: result for result in trial.metrics}
    costs = [_cost(found[one.name], one) for one in measures(manifest) if one.name in found]
    if trial.size_bytes:
        costs.append(change(manifest.input.size_bytes / trial.size_bytes))
    on_front = sum(one.on_front for one in manifest.trials)
    count = len(manifest.trials)
    tried = f"{count} {'points' if count > 1 else 'point'} tried, {on_front} on the Pareto front"
    return f"{_name(trial, manifest)} won: {', '.join(costs)}; {tried}."


def search_section(manifest: Manifest) -> str:
    """The front first, then all points, folded; "" without a search."""
    trials = manifest.trials
    if not trials:
        return ""
    shown = measures(manifest)
    front = sorted(
        (trial for trial in trials if trial.on_front or trial.best),
        key=lambda trial: (trial.size_bytes is None, trial.size_bytes or 0, trial.number),
    )
    head = ["setting", "size", "bits per weight", *(one.name for one in shown)]
    counted = Counter(trial.state for trial in trials)
    states = ", ".join(f"{counted[state]} {word}" for state, word in ENDED.items() if counted[state])
    return (
        "<h2>Pareto front</h2>"
        f"{table('Pareto front', head, [_on_front(one, shown) for one in front])}"
        "<p><small>No other point is better in one of these figures and as good in all the others.</small></p>"
        f"{''.join(f'<p>{text(sentence)}</p>' for sentence in points_apart(trials))}"
        f"{folded(f'All {len(trials)} points: {states}', _all(trials, shown))}"
    )


def _on_front(trial: TrialRecord, shown: Sequence[Measure]) -> list[str]:
    words = text(setting(trial.parameters))
    first = f"<strong>{words}</strong><small>chosen</small>" if trial.best else words
    return [first, *_figures(trial, shown)]


def _all(trials: Sequence[TrialRecord], shown: Sequence[Measure]) -> str:
    head = [
        "point",
        "how it ended",
        "size",
        "bits per weight",
        *(one.name for one in shown),
        "time",
        "worker",
        "model",
    ]
    return table("All points", head, [_point(trial, shown) for trial in trials])


def _point(trial: TrialRecord, shown: Sequence[Measure]) -> list[str]:
    marks = [word for word, holds in (("chosen", trial.best), ("on the front", trial.on_front)) if holds]
    first = f"{trial.number}: {text(setting(trial.parameters))}"
    ended = ENDED[trial.state] + (f"<small>{text(trial.said)}</small>" if trial.said else "")
    return [
        first + (f"<small>{', '.join(marks)}</small>" if marks else ""),
        ended,
        *_figures(trial, shown),
        "-" if trial.seconds is None else text(duration(trial.seconds)),
        text(trial.worker or "-"),
        text(trial.model or "-"),
    ]


def _figures(trial: TrialRecord, shown: Sequence[Measure]) -> list[str]:
    found = {result.name: result for result in trial.metrics}
    return [
        "-" if trial.size_bytes is None else megabytes(trial.size_bytes),
        "-" if trial.bits_per_weight is None else f"{trial.bits_per_weight:.3f}",
        *(_metric(found.get(one.name), one) for one in shown),
    ]


def _metric(result: MetricResult | None, measure: Measure) -> str:
    """A value, with its interval below it where that is known."""
    beside = measure.interval(result)
    value = measure.write(None if result is None else result.output)
    return text(value) + (f"<small>{text(beside)}</small>" if beside else "")


def _cost(result: MetricResult, measure: Measure) -> str:
    return f"{result.name} {format_change(result) or measure.write(result.output)}"


def _name(trial: TrialRecord, manifest: Manifest) -> str:
    """With the method, where that was not searched."""
    words = setting(trial.parameters)
    if PASSES in trial.parameters:
        return words
    return f"{' and '.join(recorded_pass(manifest.workflow['passes']).methods)}, {words}"
