"""Pictures over the decoder layers: which bits each linear got, and what a rotation did to the ranges."""

from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantization_api.manifest import LayerRanges, LinearReport, Spread
from quantizer.report.kinds import Kind, by_kind
from quantizer.report.lettering import COLOURS, LEGEND_LINE, WIDTH, lettered, scale
from quantizer.report.svg import INK, RULES, Picture, picture

KINDS_AT_MOST = 16
NUMBERED_LAYERS = 16
"""With more layers, numbers would not fit into them."""
MARKED_LAYERS = 40
ROW = 0.34  # inches
INPUTS_BEFORE, INPUTS_AFTER = "inputs before", "inputs after"
WEIGHTS_BEFORE, WEIGHTS_AFTER = "weights before", "weights after"


def bits_by_layer(modules: Sequence[LinearReport], bits: int, group_size: int) -> Picture:
    """A row for each kind of linear, over the layers as high as the bits that it has there.

    bits, group_size: of linears that say nothing themselves: those of the pass.
    """
    whole = [
        linear.model_copy(
            update={
                "bits": bits if linear.bits is None else linear.bits,
                "group_size": group_size if linear.group_size is None else linear.group_size,
            }
        )
        for linear in modules
    ]
    kinds = by_kind(whole)
    shown = kinds[:KINDS_AT_MOST]
    most = max(linear.bits or 0 for linear in whole)
    with rc_context(RULES):
        figure = Figure(figsize=(WIDTH, 0.8 + ROW * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        last = max(layer for kind in shown for layer in kind.layers())
        for row, kind in enumerate(shown):
            _row(axes, len(shown) - 1 - row, _bits(kind), most, last)
        axes.set_yticks(
            [len(shown) - 1 - row + 0.4 for row in range(len(shown))], [lettered(k.name) for k in shown]
        )
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(-0.5, last + 0.5)
        axes.set_xlabel(f"decoder layer; a bar as high as its row: {most} bits")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = "Bits of the linears in each layer"
    if len(kinds) > KINDS_AT_MOST:
        title += f" ({KINDS_AT_MOST} of {len(kinds)} kinds)"
    return picture("bits-by-layer", title, " ".join(map(_told_bits, shown)), figure)


def ranges_by_layer(ranges: Sequence[LayerRanges]) -> Picture:
    """How far the largest inputs and weights stand out in each layer, dotted before the rotation and solid after."""
    lines = {name: values for name, values in _ratios(ranges).items() if values}
    with rc_context(RULES):
        figure = Figure(figsize=(WIDTH, 2.9 + LEGEND_LINE * 2), layout="constrained")
        axes = figure.add_subplot()
        for name, values in lines.items():
            inputs, after = name in (INPUTS_BEFORE, INPUTS_AFTER), name in (INPUTS_AFTER, WEIGHTS_AFTER)
            axes.plot(
                list(values),
                list(values.values()),
                color=COLOURS[0] if inputs else COLOURS[1],
                ls="-" if after else ":",
                marker=("o" if inputs else "s") if len(values) <= MARKED_LAYERS else "",
                ms=3,
                label=name,
            )
        axes.set_yscale(scale([value for values in lines.values() for value in values.values()]))
        axes.set_xlabel("decoder layer")
        axes.set_ylabel("largest value / root mean square")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    told = " ".join(
        f"{name.capitalize()} the rotation: {min(values.values()):.3g} to {max(values.values()):.3g}."
        for name, values in lines.items()
    )
    title = "How far the largest inputs and weights stand out, before the rotation and after"
    return picture("ranges-by-layer", title, told, figure)


def _ratios(ranges: Sequence[LayerRanges]) -> dict[str, dict[int, float]]:
    """By line of the picture, then by layer."""
    ordered = sorted(ranges, key=lambda one: one.layer)
    sides: dict[str, list[tuple[int, Spread | None]]] = {
        INPUTS_BEFORE: [(one.layer, one.inputs_before) for one in ordered],
        INPUTS_AFTER: [(one.layer, one.inputs_after) for one in ordered],
        WEIGHTS_BEFORE: [(one.layer, one.weights_before) for one in ordered],
        WEIGHTS_AFTER: [(one.layer, one.weights_after) for one in ordered],
    }
    return {
        name: {layer: spread.largest / spread.rms for layer, spread in found if spread and spread.rms}
        for name, found in sides.items()
    }


def _bits(kind: Kind) -> dict[int, float]:
    """The mean of each layer; experts of a layer may differ."""
    return {
        layer: sum(linear.bits or 0 for linear in found) / len(found)
        for layer, found in kind.layers().items()
    }


def _row(axes: Axes, bottom: int, bits: Mapping[int, float], most: int, last: int) -> None:
    """One line over the layers; whatever lies outside them, such as the head, is one bar over all."""
    one = len(bits) == 1 and last > 0
    edges = [-0.5, last + 0.5] if one else [layer - 0.5 for layer in range(last + 2)]
    heights = [next(iter(bits.values()))] if one else [bits.get(layer, 0) for layer in range(last + 1)]
    tops = [bottom + 0.8 * height / most for height in heights]
    axes.stairs(tops, edges, baseline=bottom, fill=True, fc=(COLOURS[0], 0.55), ec=COLOURS[0])
    if one or last < NUMBERED_LAYERS:
        for left, right, height in zip(edges, edges[1:], heights, strict=False):
            if height:
                axes.text(
                    (left + right) / 2, bottom + 0.06, f"{height:.3g}", ha="center", fontsize=7, color=INK
                )


def _told_bits(kind: Kind) -> str:
    counted = Counter((linear.bits or 0, linear.group_size or 0) for linear in kind.members)
    said = [
        f"{bits} bits, {'one group a row' if size == -1 else f'groups of {size}'}"
        + (f", in {count} of {len(kind.members)}" if len(counted) > 1 else "")
        for (bits, size), count in sorted(counted.items(), reverse=True)
    ]
    return f"{kind.name}: {'; '.join(said)}."
