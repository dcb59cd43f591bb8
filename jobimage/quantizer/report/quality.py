"""The metrics of an artifact for people: each with its goal, how much it changed, and what RTN would give.

RTN is rounding to nearest with the bits of the pass; a manifest has its figures behind the metrics of the workflow.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from quantization_api.manifest import Manifest
from quantization_api.metrics import Metric
from quantization_api.status import MetricResult
from quantization_api.workflow import Workflow
from quantizer.evaluation.goals import wanted
from quantizer.report.sizes import megabytes, sizes

RTN_PREFIX = "rtn_"
NAME_LIMIT = 63
SIZE = "size_on_disk"
IN_UNITS: dict[str, Callable[[float], str]] = {
    SIZE: megabytes,
    "peak_memory": megabytes,
    "latency": lambda value: f"{format_value(value)} ms",
    "throughput": lambda value: f"{format_value(value)} tokens/s",
}
"""How values are written, by type of the metric; the others have no unit."""


@dataclass(frozen=True)
class Row:
    """A metric, each part as it is shown; "" where there is nothing to show."""

    name: str
    goal: str
    before: str
    after: str
    """With its 95 % confidence interval, where it has one: "7.089 (7.020 to 7.160)"."""
    change: str
    rtn: str


def beside_name(name: str) -> str:
    """What a manifest calls RTN's value of a metric."""
    return (RTN_PREFIX + name)[:NAME_LIMIT]


def quality(manifest: Manifest) -> list[Row]:
    """The metrics of the workflow, in its order."""
    asked = _asked(manifest)
    rtn = {item.name: item.output for item in manifest.metrics[len(asked) :]}
    return [_row(found, metric, rtn.get(beside_name(found.name))) for found, metric in asked]


def measured_with(manifest: Manifest) -> str:
    """Of speed and memory: in which software and on what they were measured, as sentences; "" without such metrics."""
    names: dict[str, list[str]] = {}
    for found, _ in _asked(manifest):
        if found.measured_with:
            names.setdefault(found.measured_with, []).append(found.name)
    return " ".join(f"{', '.join(measured)}: measured with {told}." for told, measured in names.items())


def verdict(manifest: Manifest) -> str:
    """What to know first: that goals are met (an artifact that misses one is not published), changes, and sizes."""
    rows, asked = quality(manifest), _asked(manifest)
    goals = sum(bool(row.goal) for row in rows)
    met = {0: "No goals were set", 1: "The goal is met", 2: "Both goals are met"}
    figures = [
        f"{row.name} {row.change or row.after}"
        for row, (_, metric) in zip(rows, asked, strict=True)
        if metric is None or metric.type != SIZE
    ]
    told = [met.get(goals, f"All {goals} goals are met"), ", ".join(figures), sizes(manifest)]
    return f"{'; '.join(filter(None, told))}."


def format_value(value: float | None) -> str:
    """A figure for a table."""
    if value is None:
        return "-"
    if value and value == int(value) and abs(value) >= 1000:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.3f}"


def _asked(manifest: Manifest) -> list[tuple[MetricResult, Metric | None]]:
    """Of each metric of the workflow what was found and what it was asked for."""
    try:
        metrics = Workflow.model_validate(manifest.workflow).metrics()
    except ValidationError:  # an artifact of a release with other rules: it is shown without its goals
        beside = {beside_name(item.name) for item in manifest.metrics}
        return [(item, None) for item in manifest.metrics if item.name not in beside]
    return list(zip(manifest.metrics, metrics, strict=False))


def _row(found: MetricResult, metric: Metric | None, rtn: float | None) -> Row:
    goal = wanted(metric) if metric else ""
    shown = _shown(metric)
    rounded = "" if rtn is None else shown(rtn)
    after = shown(found.output)
    if found.low is not None and found.high is not None:
        after = f"{after} ({shown(found.low)} to {shown(found.high)})"
    return Row(found.name, goal, shown(found.input), after, format_change(found), rounded)


def _shown(metric: Metric | None) -> Callable[[float | None], str]:
    """How values of a metric are shown: with their unit, where it has one."""
    write = IN_UNITS.get(metric.type) if metric else None
    if write is None:
        return format_value
    return lambda value: "-" if value is None else write(value)


def format_change(found: MetricResult) -> str:
    """In percent of the input model's value; "" where that is 0, as of a divergence from itself."""
    if not found.input or found.output is None:
        return ""
    return f"{100 * (found.output - found.input) / abs(found.input):+.1f} %"
