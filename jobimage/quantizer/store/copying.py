"""Copying an object from one place to another: by the server within a bucket or a machine, else through scratch."""

from collections.abc import Callable
from pathlib import Path

from quantization_api.pod import StorageAccess
from quantizer.store.interface import OUTPUT, StopCheck
from quantizer.store.location import Location, open_store
from quantizer.store.patience import Patience
from quantizer.store.source import BLOCK


def copier(
    source: Location,
    target: Location,
    access: StorageAccess,
    patience: Patience,
    scratch: Path,
    stop_check: StopCheck,
) -> Callable[[str, str], None]:
    """A function that copies the object with a key at the source to another key at the target.

    Raises (that function):
        QuantizationError: as stores do.
    """
    if source.bucket == target.bucket:
        root = _common(source, target)
        store = open_store(root, OUTPUT, access, patience)
        return lambda key, to: store.copy(_below(root, source.child(key)), _below(root, target.child(to)))
    here = open_store(source, OUTPUT, access, patience)
    there = open_store(target, OUTPUT, access, patience)

    def through_scratch(key: str, to: str) -> None:
        info, path = here.head(key), scratch / "copied"
        if info is None:
            raise OUTPUT.change(f"{here.uri}/{key}", "is gone")
        with path.open("wb") as file:
            for start in range(0, info.size, BLOCK):
                stop_check()
                file.write(here.read(key, start, min(BLOCK, info.size - start), info.version))
        there.put_file(to, path, stop_check)
        path.unlink()

    return through_scratch


def _common(one: Location, other: Location) -> Location:
    """The nearest place that contains both."""
    while not (other.path.rstrip("/") + "/").startswith(one.path.rstrip("/") + "/" if one.path else ""):
        one = one.parent
    return one


def _below(root: Location, place: Location) -> str:
    return place.path.removeprefix(root.path).lstrip("/")
