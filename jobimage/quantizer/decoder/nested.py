"""Values in nested dicts, lists and tuples, as layers take and return them."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.fx.experimental import _config as meta_config

Path = tuple[Any, ...]
"""Where a value is: a key or a number for each dict, list or tuple around it."""


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """The tensors in nested dicts, lists and tuples, and where they are."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_in(one, (*path, key))
    elif isinstance(value, (tuple, list)):
        for number, one in enumerate(value):
            yield from tensors_in(one, (*path, number))


def at(value: Any, path: Path) -> Any:
    """What is at a place."""
    for key in path:
        value = value[key]
    return value


def with_tensors(value: Any, changed: Mapping[Path, Tensor], path: Path = ()) -> Any:
    """The same with other tensors at some places, in containers of its own: a layer may leave something there."""
    if path in changed:
        return changed[path]
    return rebuilt(value, lambda key, one: with_tensors(one, changed, (*path, key)))


def rebuilt(value: Any, made: Callable[[Any, Any], Any]) -> Any:
    """A dict, list or tuple of the same kind with what is made of each key and value; anything else as it is."""
    if isinstance(value, MutableMapping):
        other: Any = copy.copy(value)
        other.update({key: made(key, one) for key, one in value.items()})
        return other
    if isinstance(value, (tuple, list)):
        return type(value)(made(number, one) for number, one in enumerate(value))
    return value


def on_meta(value: Any) -> Any:
    """The same without values."""
    if isinstance(value, Tensor):
        return value.to("meta")
    return rebuilt(value, lambda _, item: on_meta(item))


def left_in(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Mapping[Any, Any]]:
    """What a forward put into the dicts among its arguments, by the name of the argument.

    before: the arguments, in containers of their own. after: the arguments that it was given.
    """
    found = {
        name: {key: one for key, one in after[name].items() if key not in value or not _same(one, value[key])}
        for name, value in before.items()
        if isinstance(value, MutableMapping) and isinstance(after.get(name), MutableMapping)
    }
    return {name: entries for name, entries in found.items() if entries}


def own_containers(value: Any) -> Any:
    """The same in dicts and lists of its own: what layers share changes from one to the next."""
    made = rebuilt(value, lambda _, item: own_containers(item))
    kept = isinstance(value, tuple) and all(one is other for one, other in zip(value, made, strict=True))
    return value if kept else made


def _same(one: Any, other: Any) -> bool:
    """Whether nested values have the very same tensors."""
    mine, theirs = (((path, id(value)) for path, value in tensors_in(each)) for each in (one, other))
    return list(mine) == list(theirs)


def without_values() -> AbstractContextManager[None]:
    """Within it a forward without values may ask which of them are not zero: it is taken to be all of them."""
    switches: Any = meta_config
    made: AbstractContextManager[None] = switches.patch(meta_nonzero_assume_all_nonzero=True)
    return made
