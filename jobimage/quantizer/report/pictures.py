"""Pictures of a run, as SVG: error of every linear beside that of RTN, and where the time went."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantization_api.manifest import LinearReport
from quantization_api.text import clean

STAGE, PART = "#1f6feb", "#bbbbbb"
KINDS_AT_MOST = 16


def error_by_layer(modules: Sequence[LinearReport]) -> bytes:
    """Relative error of each kind of linear over the layers: a solid line, dotted for RTN.

    A module's name is PREFIX.NUMBER.KIND; the first part that is a number is the layer's.
    """
    kinds: dict[str, list[tuple[int, LinearReport]]] = {}
    for module in modules:
        layer, kind = _split(clean(module.name, 256).replace("$", ""))
        kinds.setdefault(kind, []).append((layer, module))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (kind, items) in enumerate(list(kinds.items())[:KINDS_AT_MOST]):
        layers = [layer for layer, _ in items]
        color = f"C{number}"
        axes.plot(layers, [module.error for _, module in items], color=color, marker="o", ms=3, label=kind)
        axes.plot(layers, [module.error_rtn for _, module in items], color=color, ls=":", lw=1)
    if all(module.error > 0 for module in modules):
        axes.set_yscale("log")
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("Hessian-weighted relative error")
    axes.set_title("Error of each linear; dotted: RTN (round to nearest)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if kinds:  # a rotation alone rounds no linear
        axes.legend(fontsize="small", ncols=2)
    return _svg(figure)


def time_by_stage(seconds: Mapping[str, float]) -> bytes:
    """Bars of the seconds of each stage; parts of a stage are named "STAGE: PART"."""
    figure = Figure(figsize=(9, 0.6 + 0.4 * max(1, len(seconds))), layout="constrained")
    axes = figure.add_subplot()
    names = list(seconds)
    bars = axes.barh(
        names, [seconds[name] for name in names], color=[PART if ":" in name else STAGE for name in names]
    )
    axes.bar_label(bars, fmt="%.1f s", padding=3, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("seconds")
    axes.set_title("Time by stage")
    return _svg(figure)


def _split(name: str) -> tuple[int, str]:
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            return int(part), ".".join(parts[position + 1 :])
    return 0, name


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):  # else ids are random and no two pictures are equal
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
