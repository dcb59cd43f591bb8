"""Quality against time as a picture: a panel for each grid, every engine a point, better nearer to the corner."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tests.benchmarks.quantization.picture import OURS
from tests.benchmarks.quantization.trade import Point, by_cell

ACROSS = 2
OTHERS = "#777777"


def draw(kept: Sequence[Point], target: Path) -> None:
    """Writes TARGET.png and TARGET.svg; plain rounding, which takes no time, is a line."""
    cells = list(by_cell(kept))
    down = -(-len(cells) // ACROSS)
    figure = Figure(figsize=(6.5 * min(ACROSS, len(cells)), 4.2 * down), layout="constrained")
    panels = figure.subplots(down, min(ACROSS, len(cells)), squeeze=False).flatten()
    for (words, found), panel in zip(cells, panels, strict=False):
        _draw_cell(panel, words, found)
    for panel in panels[len(cells) :]:
        panel.set_axis_off()
    # the same file for the same figures: no date, and names of parts that are not drawn by chance
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "quality"}):
        FigureCanvasSVG(figure).print_svg(target.with_suffix(".svg"), metadata={"Date": None})
    FigureCanvasAgg(figure).print_png(target.with_suffix(".png"))


def _draw_cell(panel: Axes, words: str, found: Sequence[Point]) -> None:
    for point in found:
        color = OURS if point.ours else OTHERS
        if point.cpu_seconds:
            place = (point.cpu_seconds, point.kl_divergence)
            panel.plot(*place, "o", color=color)
            panel.annotate(
                point.engine, place, (5, 5), textcoords="offset points", color=color, fontsize="small"
            )
        else:
            panel.axhline(point.kl_divergence, color=color, linestyle=":")
            across = panel.get_yaxis_transform()
            panel.text(
                0.01, point.kl_divergence, point.engine, transform=across, va="bottom", fontsize="small"
            )
    if any(point.cpu_seconds for point in found):
        panel.set_xscale("log")
    panel.margins(x=0.2, y=0.1)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("CPU seconds to quantize")
    panel.set_ylabel("KL divergence, nats a token")
    panel.set_title(words, fontsize="small", wrap=True)
