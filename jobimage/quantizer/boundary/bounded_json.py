"""JSON from outside, bounded in size and depth, so that reading it takes bounded time and memory."""

import json
import re
from collections.abc import Callable
from typing import Any

from quantization_api.failures import Category
from quantizer.boundary.reading import reading

MAX_DEPTH = 100
MOST_CONTAINERS, MOST_VALUES = 4_000_000, 8_000_000
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(
    data: bytes,
    category: Category,
    what: str,
    *,
    limit: int,
    hint: str = "",
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> dict[str, Any]:
    """The JSON object in the bytes of a file.

    Args:
        category, what, hint: of the error for anything else, see boundary.reading.reading.
        limit: the largest size of the file in bytes.
        pairs: as json.loads' object_pairs_hook.
    """
    with reading(category, what, hint):
        value = parse(data, limit, pairs)
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}, not a JSON object")
    return value


def parse(data: bytes, limit: int, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The JSON value in the bytes of a file.

    Raises:
        ValueError: it is too large, too deep, not JSON, or has text that cannot be encoded in UTF-8.
    """
    check_size(len(data), limit)
    text = decoded(data)
    value = parse_text(text, pairs)
    if SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate: UnicodeEncodeError, a ValueError
    return value


def decoded(data: bytes) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, as its first bytes say, without a byte order mark."""
    return data.decode(json.detect_encoding(data))


def in_utf8(data: bytes) -> bytes:
    """The same text in UTF-8 without a byte order mark; bytes that already are that, or no text, as they are."""
    try:
        return data if json.detect_encoding(data) == "utf-8" else decoded(data).encode()
    except UnicodeError:
        return data


def parse_text(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The JSON value in a text, bounded in depth and in the number of its values, each of which takes up to 100 bytes.

    Raises:
        ValueError: it is too deep, has too many values, or is not JSON.
    """
    if sum(map(text.count, "[{")) > MOST_CONTAINERS or text.count(",") > MOST_VALUES:
        raise ValueError("it has too many lists, objects or values")
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    check_depth(value)
    return value


def check_size(size: int, limit: int) -> None:
    """Raises ValueError for a size above the limit; both in bytes."""
    if size > limit:
        raise ValueError(f"it has {size:,} bytes; at most {limit:,} are allowed")


def check_depth(value: Any, limit: int = MAX_DEPTH) -> None:
    """Raises ValueError for more than `limit` nested containers; without recursion."""
    level = [value]
    for _ in range(limit):
        level = [item for holder in level for item in _items(holder) if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError(f"it is nested more than {limit} levels deep")


def _items(holder: Any) -> Any:
    if isinstance(holder, dict):
        return holder.values()
    return holder if isinstance(holder, list) else ()
