"""Settings as points: what each gives and what it costs; of a search's trials, or of artifacts side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantization_api.manifest import Manifest, TrialRecord
from quantization_api.status import MetricResult
from quantizer.passes.making import recorded_pass
from quantizer.report.sizes import quantizes_weights

BITS = frozenset({"bits", "w_bit", "w_bits"})
GROUPS = frozenset({"group_size", "q_group_size", "w_groupsize"})
AVERAGES = frozenset({"target_bits", "target_size"})
"""Parameters that ask for other bits in other linears."""
PASSES = "passes"
"""What a trial calls the choice between passes."""


@dataclass(frozen=True)
class Point:
    """A setting."""

    label: str
    size_bytes: float | None
    metrics: Mapping[str, MetricResult]
    """By name; empty where it was not measured."""
    mixed: bool = False
    """Whether linears differ in bits or groups."""
    chosen: bool = False
    mark: str = ""
    """What stands beside it in a picture, where that is not the label."""

    def value(self, name: str) -> float | None:
        """Of a metric; None where it is not known."""
        return self.metrics[name].output if name in self.metrics else None


def trial_points(manifest: Manifest) -> list[Point]:
    """The trials of a search that were measured."""
    return [
        Point(
            label=setting(trial.parameters),
            size_bytes=trial.size_bytes,
            metrics={result.name: result for result in trial.metrics},
            mixed=is_mixed(trial, manifest),
            chosen=trial.best,
        )
        for trial in manifest.trials
        if trial.metrics
    ]


def artifact_point(manifest: Manifest, number: int) -> Point:
    """An artifact, which a picture calls by its number."""
    return Point(
        label=f"{number} ({method(manifest)})",
        mark=str(number),
        size_bytes=manifest.input.size_bytes / manifest.compression_ratio,
        metrics={result.name: result for result in manifest.metrics},
        mixed=differs(manifest),
    )


def differs(manifest: Manifest) -> bool:
    """Whether the linears of an artifact differ in bits or groups."""
    return len({(linear.bits, linear.group_size) for linear in manifest.modules}) > 1


def is_mixed(trial: TrialRecord, manifest: Manifest) -> bool:
    """Whether a trial asked for an average of bits: by its own parameters, else by those of the chosen passes."""
    own = [value for name, value in trial.parameters.items() if _last(name) in AVERAGES]
    chosen = next((one.parameters.get(PASSES) for one in manifest.trials if one.best), None)
    if own or trial.parameters.get(PASSES) != chosen:
        return any(value is not None for value in own)
    passes = manifest.workflow.get("passes", [])
    return any(item.get(name) is not None for item in passes for name in AVERAGES)


def setting(parameters: Mapping[str, object]) -> str:
    """The parameters of a trial in words, as in "4 bits, groups of 32, desc_act"."""
    names = [_last(name) for name in parameters]
    said = [
        _words(full if names.count(name) > 1 else name, name, value)
        for (full, value), name in zip(parameters.items(), names, strict=True)
    ]
    return ", ".join(said) or "as written"


def method(manifest: Manifest) -> str:
    """What was done to an artifact's weights, as in "GPTQ 4 bits, groups of 32"."""
    chosen = recorded_pass(manifest.workflow["passes"])
    name = " and ".join(chosen.methods)
    if not quantizes_weights(manifest):
        return name
    if differs(manifest):
        return f"{name} {manifest.bits_per_weight:.2f} bits on average"
    group = chosen.written.group_size
    return f"{name} {chosen.written.bits} bits, {_group(group)}"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points are on the Pareto front of two figures that are better the smaller they are, by the first.

    Of points that are equal in both figures the first one is meant.
    """
    found: list[int] = []
    for number in sorted(range(len(points)), key=lambda at: (*points[at], at)):
        if not found or points[number][1] < points[found[-1]][1]:
            found.append(number)
    return found


def _words(shown: str, name: str, value: object) -> str:
    if name == PASSES and isinstance(value, str):
        return value.replace("+", " and ")
    if value is None:
        return f"{shown} unset"
    if isinstance(value, bool):
        return shown if value else f"no {shown}"
    whose = f" ({shown.rpartition('.')[0]})" if shown != name else ""
    if name in BITS:
        return f"{value} bits{whose}"
    if name == "target_bits":
        return f"{value} bits on average{whose}"
    if name == "target_size":
        return f"{value} in all{whose}"
    if name in GROUPS and isinstance(value, int):
        return _group(value) + whose
    return f"{shown} {value}"


def _group(size: int) -> str:
    return "one group a row" if size == -1 else f"groups of {size}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
