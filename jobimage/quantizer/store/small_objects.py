"""Small objects that other processes may rewrite or remove at any moment, read together with their version."""

from dataclasses import dataclass

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import OUTPUT, PreconditionFailedError, Store

READ_ATTEMPTS = 8
GONE = (OUTPUT.missing, OUTPUT.changed)
"""Categories for an object of the output that has changed or disappeared since it was seen."""


@dataclass(frozen=True)
class Small:
    """The bytes of an object and their version."""

    data: bytes
    version: str


class UnsteadyError(QuantizationError):
    """An object that changes or disappears each time it is read."""


def read_small(store: Store, key: str, limit: int | None = None) -> Small | None:
    """An object as it is now, or None. One longer than `limit` bytes is not read: its data is empty.

    Raises:
        UnsteadyError: it changes again and again.
        QuantizationError: what reading raises.
    """
    for _ in range(READ_ATTEMPTS):
        info = store.head(key)
        if info is None:
            return None
        if limit is not None and info.size > limit:
            return Small(b"", info.version)
        try:
            return Small(bytes(store.read(key, 0, info.size, info.version)), info.version)
        except QuantizationError as error:
            if error.category not in GONE:
                raise
    raise UnsteadyError(Category.STORAGE_UNAVAILABLE, f"{store.uri}/{key} keeps changing while it is read")


def remove_small(store: Store, key: str, version: str) -> bool:
    """Removes an object if it has this version; whether it is gone, perhaps by an earlier request of ours."""
    try:
        store.delete_if(key, version)
    except PreconditionFailedError:
        return store.head(key) is None
    return True
