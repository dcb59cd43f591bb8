"""The picture of the guide: what each bit buys, by method, one panel a model."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.benchmarks.tuning_guide.page import HEAD, MODELS, Row, Table, Tables
from tests.benchmarks.tuning_guide.questions import QUESTIONS, SMALL_GROUP

from quantizer.report.lettering import COLOURS, WIDTH, lettered
from quantizer.report.svg import RULES, Picture, picture

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Bits per weight and KL divergence of points, by what is the same in them."""
HEIGHT = 2.4
"""Of a panel, in inches."""
MARKERS = "os^DvP"
BITS, METHOD = (question for question in QUESTIONS if question.name in ("bits", "method"))
NAMES = {"awq": "AWQ", "quarot+gptq": "QuaRot, GPTQ"}


def series(tables: Tables, model: str) -> Series:
    """The points of a model: GPTQ by group size, and the other methods."""
    drawn: dict[str, list[tuple[float, float]]] = {}
    for question, labelled in ((BITS, _by_group), (METHOD, _by_method)):
        for row in tables.get(question.title, Table()).rows:
            if row[0] == model and (label := labelled(row[1])):
                drawn.setdefault(label, []).extend(_place(row))
    return {label: sorted(points) for label, points in drawn.items() if points}


def draw(tables: Tables) -> Picture:
    """KL divergence against bits per weight, of all models of the page."""
    models = [row[0] for row in tables[MODELS].rows]
    shown = {model: series(tables, model) for model in models}
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


def _by_group(setting: str) -> str:
    size = setting.rpartition("`group_size: ")[2].rstrip("`")
    return f"GPTQ, {'one group per row' if size == '-1' else f'groups of {size}'}"


def _by_method(setting: str) -> str:
    """What the tables call a chain is its label, without the bits; GPTQ alone is drawn by its groups."""
    method = setting.partition(", `bits: ")[0]
    name = next(
        (NAMES[chain] for chain, label in METHOD.labels.items() if label == method and chain in NAMES), ""
    )
    return f"{name}, groups of {SMALL_GROUP}" if name else ""


def _place(row: Row) -> Iterator[tuple[float, float]]:
    """Bits per weight and KL divergence, as the tables write them."""
    bits, value = row[HEAD.index("bits per weight")], row[HEAD.index("KL divergence")].partition(" ")[0]
    if bits != "-" and value != "-":
        yield float(bits), float(value)
