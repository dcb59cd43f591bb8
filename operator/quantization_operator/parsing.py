"""Values of objects that anybody may have written: each is read as what it should be, or as nothing. None raises.

What stands in a label, an annotation, a status or a termination message is a tenant's word. The API server checks most
shapes, but not those that were stored under another schema, and no schema says that a year is one that can be computed
with. So whatever is read from an object goes through these functions.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from quantization_api.text import clean
from quantization_operator.decode import TOO_DEEP

LARGEST_INTEGER = 2**53 - 1
"""Every JSON reader reads it exactly, and every field of the contract takes it."""
LONGEST_TEXT = 1024
LONGEST_WORD = 256
"""Characters of a name, a reason, an address."""
FIRST_YEAR, LAST_YEAR = 1970, 2999
"""A time outside of these could not be added to, or subtracted from."""
LARGEST_KEPT = 256 * 1024
"""Characters of a spec or a status as JSON that are kept: ten times what the largest sensible one has."""
DEEPEST_KEPT = 48
"""Levels of nesting of a spec or a status that is kept."""

_DIGITS = re.compile(r"[0-9]{1,19}\Z")


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> Sequence[Any]:
    """A JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else ()


def mappings(value: Any) -> Sequence[Mapping[str, Any]]:
    """The objects of an array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else ()


def at(value: Any, *keys: str) -> Any:
    """A value below; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text(value: Any, limit: int = LONGEST_TEXT) -> str:
    """One line of printable text."""
    if type(value) is not str:
        return ""
    return value if len(value) <= limit and value.isprintable() else clean(value, limit)


def word(value: Any) -> str:
    """A name, a reason, an address: short text."""
    if type(value) is not str:
        return ""
    return value if len(value) <= LONGEST_WORD and value.isprintable() else clean(value, LONGEST_WORD)


def raw(value: Any, limit: int) -> str:
    """Text as it is, of at most `limit` characters: for those who parse it, and for nobody else."""
    return value[:limit] if isinstance(value, str) else ""


def strings(value: Any) -> tuple[str, ...]:
    """The texts of an array, as they are."""
    return tuple(item for item in sequence(value) if isinstance(item, str))


def integer(value: Any, most: int = LARGEST_INTEGER) -> int:
    """A whole number from 0 to `most`, also one that stands in a text; 0 for anything else."""
    if type(value) is str and _DIGITS.match(value):
        value = int(value)
    return value if type(value) is int and 0 <= value <= most else 0


def signed(value: Any) -> int | None:
    """A whole number of 32 bits, such as an exit code; None for anything else."""
    return value if type(value) is int and -(2**31) <= value < 2**31 else None


def moment(value: Any) -> datetime | None:
    """An RFC 3339 time, with or without fractions of a second; None for anything else. Without a zone it is UTC."""
    if type(value) is not str:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def kept(value: Any, what: str) -> tuple[str, str]:
    """A JSON object as text, and why it is not kept: "" or a sentence. Of one that is not kept the text is empty."""
    if not isinstance(value, dict):
        return "{}", "" if value is None else f"{what} is not an object"
    try:
        told = json.dumps(value)
    except (RecursionError, ValueError):
        return "", f"{what} is nested too deeply to be read"
    if len(told) > LARGEST_KEPT:
        return "", f"{what} has {len(told)} characters of JSON; at most {LARGEST_KEPT} are read"
    if TOO_DEEP in told or _deeper(told, DEEPEST_KEPT):
        return "", f"{what} is nested deeper than {DEEPEST_KEPT} levels"
    return told, ""


_SIGN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]')


def _deeper(told: str, levels: int) -> bool:
    if told.count("{") + told.count("[") <= levels:
        return False
    depth = 0
    for sign in _SIGN.finditer(told):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(sign[0], 0)
        if depth > levels:
            return True
    return False


def size(values: Iterable[str]) -> int:
    """Characters in all."""
    return sum(map(len, values))
