"""What the import of a run config has to say: one note for each field, pass or option that a person must know of."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from quantization_api.text import did_you_mean
from quantizer.cli.olive.fields import Fields

Object = dict[str, Any]


class Kind(Enum):
    """What becomes of a thing; the value heads its part of the message."""

    REFUSED = "Not available here:"
    NEEDED = "Must be given:"
    AFTERWARDS = "Not part of the job, since it only changes the form of the finished ONNX graph:"
    LEFT_OUT = "Left out, since it computes nothing here:"


BLOCKING = (Kind.REFUSED, Kind.NEEDED)
"""With one of these there is no manifest."""


@dataclass(frozen=True)
class Note:
    """One thing to know."""

    kind: Kind
    path: str
    """Where it is in the run config, or the option that is needed."""
    reason: str
    """Why, and what to write instead."""
    option: str | None = None
    """What to add to the command so that nothing is in the way here; None: the file must be changed."""


class Notes:
    """The notes of one import, and what its user leaves out.

    Args:
        drop: fields or passes to leave out: a name leaves out every field of that name, a path (passes.NAME.FIELD)
            one place.
    """

    def __init__(self, drop: Iterable[str] = ()) -> None:
        self._items: dict[Note, None] = {}
        self._unused = set(drop)
        self._drop = frozenset(self._unused)

    @property
    def items(self) -> tuple[Note, ...]:
        """All of them, each once, in the order in which they came."""
        return tuple(self._items)

    def refuse(self, path: str, reason: str, *, droppable: bool = True, drop: str | None = None) -> None:
        """Something would change the result and is not available; `droppable`: --drop may leave it, or `drop`, out."""
        self._add(Kind.REFUSED, path, reason, f"--drop {drop or path}" if droppable else None)

    def need(self, option: str, reason: str) -> None:
        """An option of the command is missing."""
        self._add(Kind.NEEDED, option, reason, option)

    def leave_out(self, path: str, reason: str, *, droppable: bool = True) -> None:
        """Something computes nothing here; `droppable`: --drop leaves it out in so many words, for --strict."""
        self._add(Kind.LEFT_OUT, path, reason, f"--drop {path}" if droppable else None)

    def leave_for_later(self, path: str, reason: str) -> None:
        """A pass changes the finished graph, after the job."""
        self._add(Kind.AFTERWARDS, path, reason, f"--drop {path}")

    def is_dropped(self, path: str, name: str) -> bool:
        """Whether the user leaves out what is at the path."""
        found = self._drop & {path, name}
        self._unused -= found
        return bool(found)

    def refuse_unused_drops(self, config: Mapping[str, Any]) -> None:
        """A --drop that names nothing of the run config is a slip; to be called last."""
        known = set(_names(config))  # what lies in a part that is left out is not looked at, but it is there
        for name in sorted(self._unused - known):
            near = did_you_mean(name, known)
            self.refuse(f"--drop {name}", f"there is no field of this name{near}", droppable=False)

    def sifted(
        self, fields: Fields, item: Object, path: str, known: Container[str], unknown: Callable[[str], str]
    ) -> Object:
        """What a translation has to look at: the known fields, without those that say nothing.

        Args:
            fields: those without an equivalent; each gets its note.
            item: an object of the run config. path: where it is, with a dot at the end, or empty.
            known: names of the fields that are translated.
            unknown: the sentence for a field that is neither.
        """
        kept: Object = {}
        for key, value in item.items():
            name = str(key)
            where = f"{path}{name}"
            field = fields.get(name)
            if value is None or self.is_dropped(where, name):
                continue
            if field is None and name in known:
                kept[name] = value
            elif field is None:
                self.refuse(where, unknown(name))
            elif field.asks_for_nothing(value):
                continue
            elif field.changes_the_result(value):
                self.refuse(where, field.reason)
            else:
                self.leave_out(where, field.reason)
        return kept

    def folded(self, item: Any, inner: str, path: str) -> Object:
        """An object whose fields may also be nested under `inner`; path: where it is, without a dot at the end."""
        if not isinstance(item, dict):
            self.refuse(path, "must be an object", droppable=False)
            return {}
        outer: Object = dict(item)
        nested = outer.pop(inner, None)
        if nested is None:
            return outer
        if not isinstance(nested, dict):
            self.refuse(f"{path}.{inner}", "must be an object", droppable=False)
            return outer
        for key in [key for key in nested if key in outer]:
            self.refuse(f"{path}.{inner}.{key}", "is also given beside it; keep one of them", droppable=False)
        return {**outer, **nested}

    def named(self, value: Any, path: str) -> list[tuple[Object, str]]:
        """The items of a map with names or of a list, each with its place, without those that the user leaves out."""
        if value is not None and not isinstance(value, dict | list):
            self.refuse(path, "must be a map or a list", droppable=False)
            return []
        found = []
        for name, item in _pairs(value or []):
            if self.is_dropped(f"{path}.{name}", name):
                continue
            if isinstance(item, dict):
                found.append((item, f"{path}.{name}"))
            else:
                self.refuse(f"{path}.{name}", "must be an object")
        return found

    def _add(self, kind: Kind, path: str, reason: str, option: str | None) -> None:
        self._items.setdefault(Note(kind, path, reason, option))


def _names(value: Any) -> Iterator[str]:
    """The keys of a run config, at any depth."""
    if isinstance(value, Mapping):
        yield from map(str, value)
    if isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _names(inner)


def not_a_field(of: str, known: Iterable[str]) -> Callable[[str], str]:
    """The sentence for an unknown field, with the nearest known name."""
    names = list(known)

    def sentence(name: str) -> str:
        return f"{name} is not a field of {of}{did_you_mean(name, names)}"

    return sentence


def _pairs(value: Object | list[Any]) -> list[tuple[str, Any]]:
    """The items, each with its name; one of a map gets its key as name."""
    if isinstance(value, dict):
        named = {str(name): item for name, item in value.items()}
        return [
            (name, {"name": name, **item} if isinstance(item, dict) else item) for name, item in named.items()
        ]
    return [(_name_of(item, number), item) for number, item in enumerate(value)]


def _name_of(item: Any, number: int) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else str(number)
