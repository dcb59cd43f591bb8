"""Small objects that others may rewrite or remove at any moment, read whole and with the version that was read."""

from dataclasses import dataclass

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import OUTPUT, PreconditionFailedError, Store

READ_ATTEMPTS = 8
GONE = (OUTPUT.missing, OUTPUT.changed)
"""Categories of an object of the output that is not, or no longer, what was seen a moment ago."""


@dataclass(frozen=True)
class Small:
    """The bytes of an object and their version."""

    data: bytes
    version: str


class UnsteadyError(QuantizationError):
    """An object is listed, and is another or not there each time it is read."""


def read_small(store: Store, key: str, limit: int | None = None) -> Small | None:
    """An object as it is now; None when it is not there. Of one that is longer than `limit` bytes, nothing is read.

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
    """Removes an object if it has this version; whether it is gone, also by an earlier request of ours."""
    try:
        store.delete_if(key, version)
    except PreconditionFailedError:
        return store.head(key) is None
    return True
