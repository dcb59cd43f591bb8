"""The pictures of the report: how late a Job is under load, how a long load went, memory over jobs come and gone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from tests.scale.measures import Point, Slice

matplotlib.use("Agg")
from matplotlib import pyplot

BAR_SECONDS = 1.0
_MARKS = {"p50": (":", "o"), "p99": ("-", "s")}


def draw_latency(points: Mapping[str, Sequence[Point]], path: Path) -> None:
    """From the request that creates an object to its Job, against the rate of such requests: p50 and p99."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (side, line) in enumerate(points.items()):
        for kind, (style, mark) in _MARKS.items():
            seconds = [getattr(point.to_job, kind) for point in line]
            axes.plot(
                [point.rate for point in line],
                seconds,
                style,
                marker=mark,
                color=f"C{number}",
                label=f"{side}, {kind}",
            )
    axes.axhline(BAR_SECONDS, color="grey", linewidth=0.8, label=f"the bar at 20/s: {BAR_SECONDS:g} s")
    axes.set(
        xscale="log", yscale="log", xlabel="objects created per second", ylabel="seconds until the Job is there",
        title="Latency against load, whole lives of jobs",
    )  # fmt: skip
    axes.grid(which="both", alpha=0.25)
    rates = sorted({point.rate for line in points.values() for point in line})
    axes.set_xticks(rates, [f"{value:g}" for value in rates])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_life(series: Sequence[Slice], cores: int, path: Path) -> None:
    """The load from its beginning to its end: how late things were, how many waited, and who had the processors."""
    figure, (late, waits, busy) = pyplot.subplots(
        3, 1, figsize=(7, 7), sharex=True, layout="constrained", height_ratios=(3, 2, 3)
    )
    seconds = [piece.begins for piece in series]
    for number, (kind, label) in enumerate((("to_job", "request to Job"), ("to_status", "end to status"))):
        for share, (style, _) in _MARKS.items():
            values = [getattr(getattr(piece, kind), share) for piece in series]
            late.plot(seconds, values, style, color=f"C{number}", linewidth=1, label=f"{label}, {share}")
    late.axhline(BAR_SECONDS, color="grey", linewidth=0.8)
    late.set(yscale="log", ylabel="seconds late", title="A load from its beginning to its end")
    late.legend(fontsize=7, ncols=2)
    waits.plot(seconds, [piece.waiting for piece in series], color="C2", linewidth=1)
    waits.set(ylabel="jobs under way", ylim=(0, None))
    names = list(series[0].cpu) if series else []
    busy.stackplot(seconds, [[piece.cpu[name] for piece in series] for name in names], labels=names)
    busy.axhline(cores, color="grey", linewidth=0.8)
    busy.set(ylabel="cores in use", xlabel="seconds since the first request", ylim=(0, 1.1 * cores))
    busy.legend(fontsize=7, ncols=4, loc="lower center")
    for axes in (late, waits, busy):
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_memory(samples: Sequence[tuple[float, int, float]], path: Path) -> None:
    """The operator's resident memory against the jobs that have come and gone."""
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot([gone for _, gone, _ in samples], [memory for _, _, memory in samples], linewidth=1)
    axes.set(
        xlabel="jobs come and gone",
        ylabel="resident memory, MB",
        title="Memory of the operator",
        ylim=(0, None),
    )
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
