"""Text from outside as Markdown that shows it and does nothing else."""

import re

from quantization_api.text import clean

MEANT = re.compile(r"[\\`*\[\]<>|#!~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What Markdown, or HTML inside it, would take for markup; an underscore within a word is none."""


def plain(text: str) -> str:
    """In a sentence, a heading or a cell of a table."""
    return MEANT.sub(lambda found: f"\\{found[0]}", clean(text))


def code(text: str) -> str:
    """As code within a line."""
    line = clean(text)
    fence = _fence(line, 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def block(text: str, language: str) -> str:
    """As lines of code; `text` ends with a line break."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text}{fence}"


def _fence(text: str, least: int) -> str:
    """More backticks than stand anywhere in the text side by side."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
