"""What all pictures share: how wide they are, their colours, and how names and scales are written."""

from collections.abc import Sequence

WIDTH, BAR, LEGEND_LINE = 4.8, 0.32, 0.19  # inches; so narrow that text is readable on a telephone
COLOURS = ("#2f7ed8", "#c2571a", "#2a8f5b", "#c23b4a", "#8e5bd0", "#8a7a1c", "#c2468a", "#11899a")
"""They can be told from white and from almost black."""
WIDE_RANGE = 5


def scale(values: Sequence[float]) -> str:
    """Logarithmic where values span so much that the small ones would lie on the axis."""
    return "log" if min(values) > 0 and max(values) > WIDE_RANGE * min(values) else "linear"


def lettered(name: str) -> str:
    """For matplotlib, which takes $ for mathematics, leaves out what begins with _ and has few letters of the world."""
    shown = name.encode("ascii", "replace").decode().replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
