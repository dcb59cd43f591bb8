"""The table as a picture: seconds of each engine on a logarithmic axis, and the KL divergence beside them."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tests.benchmarks.quantization.cases import NATIVE
from tests.benchmarks.quantization.table import Row

OURS, THEIRS = "#1f6feb", "#bbbbbb"


def draw(rows: Sequence[Row], title: str, target: Path) -> None:
    """Writes TARGET.png and TARGET.svg; an engine without figures keeps its place, with the word for it."""
    timed = [row for row in rows if row.engine != "RTN"]
    figure = Figure(figsize=(11, 1.4 + 0.45 * max(1, len(timed))), layout="constrained")
    seconds, divergence = figure.subplots(1, 2, sharey=True)
    names = [f"{row.method}: {row.engine}" for row in timed]
    colors = [OURS if row.engine == NATIVE else THEIRS for row in timed]
    bars = seconds.barh(names, [row.seconds for row in timed], color=colors)
    seconds.bar_label(bars, [_time(row) for row in timed], padding=3, fontsize="small")
    if any(row.seconds for row in timed):
        seconds.set_xscale("log")
    for place, row in enumerate(timed):
        if not row.seconds:  # a bar of no length has no place on the axis, nor has its label
            across = seconds.get_yaxis_transform()
            seconds.text(0.02, place, "not measured", transform=across, va="center", fontsize="small")
    seconds.set_xlabel("seconds to quantize")
    seconds.invert_yaxis()
    seconds.margins(x=0.3)
    bars = divergence.barh(names, [row.verdict.kl_divergence for row in timed], color=colors)
    labels = [f"{row.verdict.kl_divergence:.4f}" if row.verdict.perplexity else "" for row in timed]
    divergence.bar_label(bars, labels, padding=3, fontsize="small")
    divergence.set_xlabel("KL divergence from the float model, nats a token")
    divergence.margins(x=0.2)
    figure.suptitle(title)
    with rc_context({"svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(target.with_suffix(".svg"))
    FigureCanvasAgg(figure).print_png(target.with_suffix(".png"))


def _time(row: Row) -> str:
    if not row.seconds:
        return ""
    if row.engine == NATIVE or not row.ratio:
        return f"{row.seconds:.1f} s"
    return f"{row.seconds:.1f} s, {row.ratio:.1f} x"
