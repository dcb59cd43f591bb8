"""A matplotlib figure as an SVG element that a page can hold beside others and that can be read aloud, and as PNG.

In SVG its text is text, its ids are its own, and its ink is the colour of the text around it. PNG, on white, is for
where SVG is not shown.
"""

import io
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the colour of the text while the figure is drawn."""
RULES: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), INK),
}
"""What figures are made and drawn with."""
ALONE = "svg{color:#222;background:#fff}@media(prefers-color-scheme:dark){svg{color:#ddd;background:#181818}}"
"""The colours of a picture that is opened by itself."""
PNG_WIDTH = 720  # pixels: half as much again as the picture is wide in a report
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREFS = ("href", f"{{{XLINK}}}href")


@dataclass(frozen=True)
class Picture:
    """A picture of the report."""

    name: str
    """Unique in the report: the name of its file, and the beginning of its ids."""
    title: str
    told: str
    """What it shows, in words."""
    drawn: str
    """The <svg> element."""
    figure: Figure = field(repr=False, compare=False)

    def file(self) -> bytes:
        """A document of its own."""
        head, rest = self.drawn.split(">", 1)
        return f"<?xml version='1.0' encoding='utf-8'?>\n{head}><style>{ALONE}</style>{rest}\n".encode()

    def png(self) -> bytes:
        """As pixels, PNG_WIDTH across. The same picture gives the same bytes with the same matplotlib."""
        buffer = io.BytesIO()
        dots = PNG_WIDTH / self.figure.get_figwidth()
        with rc_context(RULES):
            FigureCanvasAgg(self.figure).print_figure(
                buffer, format="png", dpi=dots, facecolor="white", metadata={"Software": None}
            )
        return buffer.getvalue()


def picture(name: str, title: str, told: str, figure: Figure) -> Picture:
    """Draws a figure that was made with RULES. The same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context({**RULES, "svg.hashsalt": name}):  # without a salt ids are random
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())  # matplotlib wrote it
    for found in root.findall(f"{{{SVG}}}metadata"):
        root.remove(found)
    _keep_style(root)
    for size in ("width", "height", "version"):
        del root.attrib[size]
    _own_ids(root, name)
    _tell(root, name, title, told)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return Picture(
        name, title, told, ET.tostring(root, encoding="unicode").replace(INK, "currentColor"), figure
    )


def _keep_style(root: ET.Element) -> None:
    """matplotlib's only rule is meant for this picture; in a page it would hold for everything."""
    for defs in root.findall(f"{{{SVG}}}defs"):
        if defs.find(f"{{{SVG}}}style") is not None:
            root.remove(defs)
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")


def _own_ids(root: ET.Element, name: str) -> None:
    """Ids that no other picture has, and the references to them."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key in HREFS:
                element.set(key, value.replace("#", f"#{name}-", 1))
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))


def _tell(root: ET.Element, name: str, title: str, told: str) -> None:
    """Title and text alternative, which must come first."""
    for position, (tag, text) in enumerate((("title", title), ("desc", told))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    root.set("aria-describedby", f"{name}-desc")
