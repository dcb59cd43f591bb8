"""Text from outside as it may stand in a status, an event, a log line or a termination message."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
"""Escape sequences of a terminal (ECMA-48): colours, moves of the cursor, titles of windows."""

BETWEEN_LINES = " | "
GAP = " … "


def clean(text: str, limit: int = 1024) -> str:
    """One line of printable text of at most `limit` characters.

    Lines are joined by a bar; control characters, lone surrogates and marks that change the direction of writing
    become spaces. Of a long text the head, which says what was done, and the tail, which says what went wrong, stay.
    A very long text is cut before anything else, so that the time is bounded too.
    """
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + GAP + text[-2 * limit :]
    lines = (
        "".join(c if c.isprintable() else " " for c in line).strip()
        for line in ANSI.sub("", text).splitlines()
    )
    return shortened(BETWEEN_LINES.join(line for line in lines if line), limit)


def full_stop(text: str, limit: int = 1024) -> str:
    """The text as a sentence: with a full stop, unless it ends like one, or is too long for another character."""
    return text if not text or text.endswith((".", "!", "?")) or len(text) >= limit else f"{text}."


def shortened(text: str, limit: int) -> str:
    """The text, or its head and its tail with a gap between them: `limit` characters in all."""
    if len(text) <= limit:
        return text
    head = (limit - len(GAP) + 1) // 2
    tail = limit - len(GAP) - head
    return text[:head] + GAP + text[len(text) - tail :]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not among the known ones: "; did you mean X?", or nothing."""
    spelled = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean {spelled[near[0]]}?" if near else ""
