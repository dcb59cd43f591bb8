"""What quality costs: points of quality against size, or against speed, with the Pareto front between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantizer.report.lettering import COLOURS, WIDTH, lettered, scale
from quantizer.report.measures import Measure
from quantizer.report.points import Point, front
from quantizer.report.sizes import megabytes
from quantizer.report.svg import INK, RULES, Picture, picture

LABELS = 8
"""More words than that would hide the points."""
LETTER = (0.0128, 0.055)
"""Width and height of a letter of a label, in shares of the picture."""
MARKS = {False: ("s", "the same bits everywhere"), True: ("o", "mixed precision")}


@dataclass(frozen=True)
class Axis:
    """Where a figure of a point comes from."""

    measure: Measure | None = None
    """None: the size of the model."""

    @property
    def name(self) -> str:
        """In a sentence."""
        return self.measure.name if self.measure else "size"

    @property
    def label(self) -> str:
        """With its unit."""
        return self.measure.label if self.measure else "size in MB"

    @property
    def lower_is_better(self) -> bool:
        """Which way is better."""
        return self.measure.lower_is_better if self.measure else True

    def of(self, point: Point) -> float | None:
        """The figure, as it is drawn."""
        value = point.value(self.measure.name) if self.measure else point.size_bytes
        if value is None:
            return None
        return self.measure.on_axis(value) if self.measure else value / 1e6

    def write(self, point: Point) -> str:
        """The figure with its unit."""
        if self.measure:
            return self.measure.write(point.value(self.measure.name))
        return "-" if point.size_bytes is None else megabytes(point.size_bytes)

    def loss(self, value: float) -> float:
        """The smaller, the better."""
        return value if self.lower_is_better else -value


def trade_off(points: Sequence[Point], across: Axis, up: Axis) -> Picture | None:
    """Points of two figures; None unless two are known. Their line joins those that no other beats in both."""
    known = [point for point in points if across.of(point) is not None and up.of(point) is not None]
    if len(known) < 2:
        return None
    where = [(across.of(point) or 0.0, up.of(point) or 0.0) for point in known]
    best = front([(across.loss(x), up.loss(y)) for x, y in where])
    with rc_context(RULES):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        _input_line(axes, known, up)
        line = [where[number] for number in best]
        style = "steps-post" if across.lower_is_better else "steps-pre"
        axes.plot(*zip(*sorted(line), strict=True), color=INK, lw=1, drawstyle=style, label="Pareto front")
        _marks(axes, known, where, best)
        axes.set_yscale(scale([y for _, y in where]))
        axes.set_xlabel(lettered(across.label))
        axes.set_ylabel(lettered(up.label))
        axes.margins(0.08, 0.12)
        axes.grid(alpha=0.25)
        _labels(axes, known, where, best)
        figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    name = f"{_slug(up.name)}-against-{_slug(across.name)}"
    hollow = "; hollow: not on the front" if len(best) < len(known) else ""
    told = _told(known, best, across, up)
    return picture(name, f"{up.name} against {across.name}{hollow}", told, figure)


def _marks(
    axes: Axes, points: Sequence[Point], where: Sequence[tuple[float, float]], best: list[int]
) -> None:
    """Squares and circles, filled on the front; a star on what was chosen. Intervals where they are known."""
    for mixed, (marker, label) in MARKS.items():
        color = COLOURS[1] if mixed else COLOURS[0]
        of_kind = [number for number, point in enumerate(points) if point.mixed is mixed]
        for face in (color, "none"):
            shown = [where[number] for number in of_kind if (number in best) is (face == color)]
            if shown:
                named, label = label, ""
                axes.plot(
                    *zip(*shown, strict=True), ls="", marker=marker, ms=5, color=color, mfc=face, label=named
                )
    for point, at in zip(points, where, strict=True):
        if point.chosen:
            axes.plot(*at, ls="", marker="*", ms=15, color=COLOURS[3], label="chosen")


def _input_line(axes: Axes, points: Sequence[Point], up: Axis) -> None:
    """The input model's value, where all points were measured beside the same."""
    if up.measure is None:
        return
    results = [point.metrics.get(up.measure.name) for point in points]
    found = {result.input for result in results if result}
    if len(found) == 1 and (value := found.pop()):
        axes.axhline(up.measure.on_axis(value), color=INK, ls=":", lw=1, label="input model")


def _labels(
    axes: Axes, points: Sequence[Point], where: Sequence[tuple[float, float]], best: list[int]
) -> None:
    """Of the chosen point first, then of those on the front and those with a mark, where there is room for them."""
    axes.autoscale_view()
    marked = [number for number, point in enumerate(points) if point.mark]
    chosen = [number for number, point in enumerate(points) if point.chosen]
    taken: list[tuple[float, float, float]] = []
    for number in dict.fromkeys([*chosen, *best, *marked]):
        label = lettered(points[number].mark or points[number].label)
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(where[number]))
        width, right = LETTER[0] * len(label), x < 0.5
        left = x if right else x - width
        hidden = any(
            left < end and start < left + width and abs(y - at) < LETTER[1] for start, end, at in taken
        )
        if hidden or len(taken) >= max(LABELS, len(marked)):
            continue
        taken.append((left, left + width, y))
        axes.annotate(
            label,
            where[number],
            (7 if right else -7, 6),
            textcoords="offset points",
            ha="left" if right else "right",
            fontsize=7,
            fontweight="bold" if points[number].chosen else "normal",
        )


def _told(points: Sequence[Point], best: Sequence[int], across: Axis, up: Axis) -> str:
    """The front in words, and how many points lie behind it."""
    said = [
        f"{point.label}{' (chosen)' if point.chosen else ''}: {up.name} {up.write(point)} at {across.name} "
        f"{across.write(point)}"
        for point in (points[number] for number in best)
    ]
    behind = len(points) - len(best)
    others = f" {behind} more {'points lie' if behind > 1 else 'point lies'} behind it." if behind else ""
    return f"On the Pareto front: {'; '.join(said)}.{others}"


def _slug(name: str) -> str:
    """For a file and for ids: a metric's name has letters, digits, _, . and - only."""
    return name.replace("_", "-").replace(".", "-").lower()
