"""JSON of the API server, one object at a time, however deep or large what somebody stored is.

A page of a list can have 500 objects of 1.5 MB, and an object can be nested ten thousand levels deep. So a list is
read as it arrives: each object is decoded, made into what is kept of it, and forgotten. What Python's decoder cannot
read because of its depth is read without what lies deeper than `DEEPEST`, by a scanner that needs no stack.
"""

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

DEEPEST = 64
"""Levels that are left of an object that is too deep for the decoder; nothing that is read lies deeper than ten."""
TOO_DEEP = "(nested too deep to be read)"
"""Stands for what was left out."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|(\\?\Z))|[\[\]{}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r,:]*+")
_DECODER = json.JSONDecoder()


def loads(data: str | bytes) -> Any:
    """A JSON document.

    Raises:
        ValueError: it is none.
    """
    told = data.decode(errors="replace") if isinstance(data, bytes) else data
    try:
        return _DECODER.decode(told)
    except RecursionError:
        found = cut(told, 0)
        if found is None:
            raise ValueError("a JSON document ends too early") from None
        return json.loads(found[0])


def cut(told: str, start: int) -> tuple[str, int] | None:
    """The object or array that begins at `start` without what is nested too deep, and where it ends; None: nowhere."""
    depth, kept, parts = 0, start, list[str]()
    for token in _TOKEN.finditer(told, start):
        sign = token[0]
        if token[1] is not None:
            return None  # the text ends in a string
        if sign in "{[":
            depth += 1
            if depth == DEEPEST + 1:
                parts += (told[kept : token.start()], f'"{TOO_DEEP}"')
        elif sign in "}]":
            if depth == DEEPEST + 1:
                kept = token.end()
            depth -= 1
            if depth <= 0:
                parts.append(told[kept : token.end()])
                return "".join(parts), token.end()
    return None


class ListReader(Generic[T]):
    """Reads a list of objects while it arrives; `read` makes of each what is kept of it.

    rest: the list without its items, when all was fed.
    """

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._arrived: list[str] = []
        self._waiting = 0
        self._wanted = 0
        self._text = ""
        self._at = 0
        self._step: Callable[[str], bool] = self._begin
        self._found: list[T] = []
        self._key = ""
        self._ended = False
        self.rest: dict[str, Any] = {}

    def feed(self, data: bytes) -> list[T]:
        """What is kept of the objects that are complete with these bytes."""
        arrived = self._bytes.decode(data)
        self._arrived.append(arrived)
        self._waiting += len(arrived)
        # An object that was not complete is tried again when twice as much is there: else the time were quadratic.
        return self._go_on() if self._waiting >= self._wanted else []

    def close(self) -> list[T]:
        """What is kept of the last objects.

        Raises:
            ValueError: the list is not complete.
        """
        self._arrived.append(self._bytes.decode(b"", final=True))
        found = self._go_on()
        if not self._ended:
            raise ValueError("a list ends too early")
        return found

    def _go_on(self) -> list[T]:
        self._text = self._text[self._at :] + "".join(self._arrived)
        self._arrived.clear()
        self._at = self._waiting = 0
        while not self._ended and (sign := self._next_sign()) and self._step(sign):
            pass
        self._wanted = len(self._text) - self._at
        found, self._found = self._found, []
        return found

    def _next_sign(self) -> str:
        """The next character that is no space, comma or colon; "" while there is none."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _begin(self, sign: str) -> bool:
        if sign != "{":
            raise ValueError("no list, but something else")
        return self._go(self._in_list, self._at + 1)

    def _in_list(self, sign: str) -> bool:
        if sign == "}":
            self._ended = True
            return False
        if (key := self._value()) is None:
            return False
        self._key = str(key[0])
        return self._go(self._after_key, key[1])

    def _after_key(self, sign: str) -> bool:
        if self._key == "items" and sign == "[":
            return self._go(self._in_items, self._at + 1)
        if (value := self._value()) is None:
            return False
        self.rest[self._key] = value[0]
        return self._go(self._in_list, value[1])

    def _in_items(self, sign: str) -> bool:
        if sign == "]":
            return self._go(self._in_list, self._at + 1)
        if (item := self._value()) is None:
            return False
        self._found.append(self._read(item[0]))
        return self._go(self._in_items, item[1])

    def _go(self, step: Callable[[str], bool], to: int) -> bool:
        self._step, self._at = step, to
        return True

    def _value(self) -> tuple[Any, int] | None:
        """The value that begins here, and where it ends; None while it is not complete."""
        try:
            value, end = _DECODER.raw_decode(self._text, self._at)
        except RecursionError:
            short = cut(self._text, self._at)
            return short and (json.loads(short[0]), short[1])
        except ValueError:
            return None
        return (value, end) if end < len(self._text) else None  # a number may go on
