"""The one interface to storage, the same for S3 and for a directory.

Keys are relative to the root of a store ("model/config.json"). Every method raises QuantizationError
for failures of the storage (access, network, disk); a precondition that does not hold is not such a
failure and has its own exception.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quantization_api.failures import Category, QuantizationError

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Place:
    """What a store is to the run; decides the category of its errors."""

    what: str
    """Its name in messages ("input model")."""
    missing: Category
    """Category when there is nothing."""
    changed: Category
    """Category when a file is no longer what was listed: gone, truncated, replaced."""
    refused: Category
    """Category of a file that is never read, such as a device or a link out of the folder."""

    def change(self, uri: str, how: str) -> QuantizationError:
        """The error for a file that is no longer what was listed."""
        hint = "" if self.changed is Category.ARTIFACT_CORRUPT else CHANGED_HINT
        return QuantizationError(self.changed, f"{self.what}: {uri} {how}", hint)

    def refusal(self, uri: str, why: str) -> QuantizationError:
        """The error for a file that must not be read."""
        return QuantizationError(self.refused, f"{self.what}: {uri} {why}", REFUSED_HINT)

    def broken(self, uri: str, why: str) -> QuantizationError:
        """The error for a link to nothing."""
        category = self.missing if self in INPUTS else self.refused
        return QuantizationError(category, f"{self.what}: {uri} {why}", BROKEN_HINT)


CHANGED_HINT = "Do not write to the files of a running job; the next attempt reads them again."
REFUSED_HINT = "Put the file itself there: only files, and links to files in the same folder, are read."
BROKEN_HINT = (
    "The download is not complete, or the folder was copied without what its links point to: download it again, or "
    "copy it with cp -rL."
)

MODEL = Place(
    "input model", Category.MODEL_NOT_FOUND, Category.STORAGE_UNAVAILABLE, Category.MODEL_UNSUPPORTED
)
DATA = Place("data set", Category.DATA_NOT_FOUND, Category.STORAGE_UNAVAILABLE, Category.DATA_NOT_FOUND)
OUTPUT = Place("output", Category.INVALID_WORKFLOW, Category.ARTIFACT_CORRUPT, Category.ARTIFACT_CONFLICT)
INPUTS = (MODEL, DATA)
ARTIFACT = Place("artifact", Category.MODEL_NOT_FOUND, Category.ARTIFACT_CORRUPT, Category.ARTIFACT_CORRUPT)


@dataclass(frozen=True)
class ObjectInfo:
    """One object as its store lists it."""

    key: str
    size: int
    version: str
    """Changes whenever the bytes change (the ETag; on disk, from size, time and inode); what `if_version` takes."""
    sha256: str | None = None
    """Of the whole object in hex, if the store keeps it."""
    crc: tuple[str, int] | None = None
    """Algorithm (as in checksum.CRCS) and value for the whole object, if the store keeps one."""
    md5: str | None = None
    """In hex, if the version looks like one."""
    broken: bool = False
    """It is a link to nothing: listed with no bytes, and an error once it is read."""


class PreconditionFailedError(Exception):
    """The condition of a write does not hold; nothing was written."""


StopCheck = Callable[[], None]
"""Called again and again during long work; raises when the work must stop."""


def never_stop() -> None:
    """A `StopCheck` that never stops."""


class Store(Protocol):
    """Objects below one root."""

    @property
    def uri(self) -> str:
        """The root, for messages."""
        ...

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Every object whose key starts with prefix; empty when there is none."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """One object, with the checksums that the store keeps; None if there is none."""
        ...

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        """Exactly `length` bytes from `start`; an error if the object no longer has this version."""
        ...

    def put_file(self, key: str, path: Path, stop_check: StopCheck = never_stop) -> None:
        """Stores a file, completely or not at all."""
        ...

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """Stores a small object, completely or not at all, and returns its version.

        Raises PreconditionFailedError if it exists despite `if_absent`, or does not have the version `if_version`.
        """
        ...

    def copy(self, source: str, target: str) -> None:
        """Copies an object to another key, completely or not at all, without moving its bytes through this machine."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; a missing one is not an error."""
        ...

    def delete_if(self, key: str, version: str) -> None:
        """Removes an object if it has this version; a missing one is not an error.

        Raises PreconditionFailedError if it has another version.
        """
        ...

    def abort_uploads(self) -> int:
        """Drops the unfinished uploads of killed runs below the root; returns how many."""
        ...

    def impatient(self) -> "Store":
        """The same store without patience: every call is tried once."""
        ...
