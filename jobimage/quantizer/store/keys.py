"""Keys of objects: relative paths that never lead out of a store's root."""

from quantizer.store.interface import Place


def is_inside(key: str) -> bool:
    """Whether a key is a path below the root: no part is empty, `.` or `..`, and none holds a null character."""
    return bool(key) and "\0" not in key and not set(key.split("/")) & {"", ".", ".."}


def checked(place: Place, key: str) -> str:
    """The key itself.

    Raises:
        QuantizationError: the place's `refused` for a key that leads elsewhere.
    """
    if not is_inside(key):
        raise place.refusal(repr(key), "is not a path below the root")
    return key
