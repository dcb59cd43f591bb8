"""Pictures of a run: errors of the linears over the layers beside those of RTN, and where the time went."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantization_api.manifest import LinearReport
from quantizer.report.kinds import Kind, by_kind, rounds_to_nearest
from quantizer.report.lettering import BAR, COLOURS, LEGEND_LINE, WIDTH, lettered, scale
from quantizer.report.svg import INK, RULES, Picture, picture

MARKERS = "os^Dv<>p"
KINDS_AT_MOST = 16
MARKED_LAYERS = 40  # with more layers, markers would hide the lines
PARTS = ("load", "read", "calibrate", "quantize", "solve", "write")
"""The parts of a stage in the order in which they are done for a layer."""


def error_by_layer(modules: Sequence[LinearReport]) -> Picture:
    """Relative error of each kind of linear over the layers: a solid line, dotted for RTN where that is another."""
    kinds, own = by_kind(modules), rounds_to_nearest(modules)
    shown = kinds[:KINDS_AT_MOST]
    with rc_context(RULES):
        figure = Figure(figsize=(WIDTH, 2.9 + LEGEND_LINE * -(-len(shown) // 2)), layout="constrained")
        axes = figure.add_subplot()
        for kind, color, marker in zip(shown, cycle(COLOURS), _markers(len(shown)), strict=False):
            _draw(axes, kind, color, marker, with_rtn=not own)
        axes.set_yscale(scale([error for one in modules for error in (one.error, one.error_rtn)]))
        axes.set_xlabel("decoder layer")
        axes.set_ylabel("relative error")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    title = "Error of the linears in each layer" if own else "Error of the linears in each layer; dotted: RTN"
    if len(kinds) > KINDS_AT_MOST:
        title += f" ({KINDS_AT_MOST} of {len(kinds)} kinds)"
    return picture("error-by-layer", title, " ".join(_told(kind, own) for kind in shown), figure)


def time_by_stage(seconds: Mapping[str, float]) -> Picture:
    """Bars of the seconds of each stage; parts of a stage are named "STAGE: PART" and stand below it."""
    names = in_order(seconds)
    with rc_context(RULES):
        figure = Figure(figsize=(WIDTH, 0.6 + BAR * max(1, len(names))), layout="constrained")
        axes = figure.add_subplot()
        colors = [INK if ":" in name else COLOURS[0] for name in names]
        bars = axes.barh(range(len(names)), [seconds[name] for name in names], color=colors)
        for bar, name in zip(bars, names, strict=True):
            bar.set_alpha(0.35 if ":" in name else 1)
        axes.set_yticks(range(len(names)), names)
        axes.bar_label(bars, fmt="%.1f s", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("seconds")
    told = ", ".join(f"{name} {seconds[name]:.1f} s" for name in names)
    return picture("time-by-stage", "Time by stage", f"{told}." if told else "", figure)


def in_order(seconds: Mapping[str, float]) -> list[str]:
    """The stages in their order, each followed by its parts."""
    stages = list(dict.fromkeys(name.partition(": ")[0] for name in seconds))

    def place(name: str) -> tuple[int, int]:
        stage, _, part = name.partition(": ")
        rank = PARTS.index(part) if part in PARTS else len(PARTS)
        return stages.index(stage), rank if part else -1

    return sorted(seconds, key=place)


def _markers(count: int) -> list[str]:
    """Another one for each use of a colour, so that colour alone tells nothing apart."""
    return list(islice(cycle(MARKERS + "Ph*Xd1HP"), count))


def _draw(axes: Axes, kind: Kind, color: str, marker: str, *, with_rtn: bool) -> None:
    layers = kind.by_layer()
    marked = marker if len(layers) <= MARKED_LAYERS else ""
    axes.plot(
        list(layers),
        [ours for ours, _ in layers.values()],
        color=color,
        marker=marked,
        ms=3,
        label=lettered(kind.name),
    )
    if with_rtn:
        axes.plot(list(layers), [rtn for _, rtn in layers.values()], color=color, ls=":", lw=1.2)


def _told(kind: Kind, own: bool) -> str:
    """A line of the picture in words."""
    errors = [module.error for module in kind.members]
    rtn = "" if own else f", RTN {kind.error_rtn:.2g}"
    return f"{kind.name}: {min(errors):.2g} to {max(errors):.2g}, median {kind.error:.2g}{rtn}."
