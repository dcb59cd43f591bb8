"""The picture of the guide: what each bit buys, by method, one panel a model."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.benchmarks.tuning_guide.questions import SMALL_GROUP
from tests.benchmarks.tuning_guide.table import Found

from quantization_api.manifest import TrialRecord
from quantizer.report.lettering import COLOURS, WIDTH, lettered
from quantizer.report.svg import RULES, Picture, picture

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Bits per weight and KL divergence of points, by what is the same in them."""
HEIGHT = 2.4
"""Of a panel, in inches."""
MARKERS = "os^DvP"
NAMES = {"awq": "AWQ", "quarot+gptq": "QuaRot, GPTQ"}


def series(found: Found, model: str) -> Series:
    """The points of a model: GPTQ by group size, and the other methods."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    for trial in found.get("bits", {}).get(model, []):
        size = trial.parameters["gptq.group_size"]
        label = f"GPTQ, {'one group per row' if size == -1 else f'groups of {size}'}"
        drawn.setdefault(label, []).extend(_place(trial))
    for trial in found.get("method", {}).get(model, []):
        chain = str(trial.parameters["passes"])
        if chain != "gptq":
            label = f"{NAMES[chain]}, groups of {SMALL_GROUP}"
            drawn.setdefault(label, []).extend(_place(trial))
    return {label: sorted(points) for label, points in drawn.items() if points}


def draw(found: Found, models: Sequence[str]) -> Picture:
    """KL divergence against bits per weight."""
    shown = {model: series(found, model) for model in models}
    labels = list(dict.fromkeys(label for one in shown.values() for label in one))
    title = "KL divergence against bits per weight"
    with rc_context(RULES):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(models) + 0.6), layout="constrained")
        panels = figure.subplots(len(models), 1, sharex=True, squeeze=False).flat
        for axes, (model, one) in zip(panels, shown.items(), strict=True):
            _panel(axes, model, one, labels)
        axes.set_xlabel("bits per weight of a linear, scales included")
        handles = {
            text: line
            for one in figure.axes
            for line, text in zip(*one.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", fontsize=8, ncols=2)
    return picture(
        "tuning", title, f"{title}, of {', '.join(models)}; the figures are in the tables.", figure
    )


def _panel(axes: Axes, model: str, shown: Series, labels: Sequence[str]) -> None:
    for number, label in enumerate(labels):
        if points := shown.get(label):
            color, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4, lw=1, label=label)
    axes.set_title(lettered(model), fontsize=9)
    axes.set_yscale("log")
    axes.set_ylabel("KL, nats per token")
    axes.grid(alpha=0.25)


def _place(trial: TrialRecord) -> Iterator[tuple[float, float]]:
    value = next((metric.output for metric in trial.metrics if metric.name == "kl_divergence"), None)
    if trial.bits_per_weight is not None and value:
        yield trial.bits_per_weight, value
