"""A directory as a store: writes are whole or not at all (temporary file, then rename)."""

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import (
    Buffer,
    Checkpoint,
    ObjectInfo,
    Place,
    PreconditionFailedError,
    keep_going,
)

BLOCK = 8 * 1024 * 1024
TEMPORARY = ".upload-"


class DirectoryStore:
    """Objects are the files below `root`; the directory is made at the first write."""

    def __init__(self, root: Path, place: Place) -> None:
        self._root = root
        self._place = place

    @property
    def uri(self) -> str:
        """file:// URI of the root."""
        return f"file://{self._root}"

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Every file whose relative path starts with prefix, links followed, unfinished writes left out."""
        with self._errors(self.uri):
            if not self._root.is_dir():
                return {}
            found = {}
            for directory, _, names in os.walk(self._root, onerror=_raise):
                for name in names:
                    key = (Path(directory) / name).relative_to(self._root).as_posix()
                    if key.startswith(prefix) and not name.startswith(TEMPORARY):
                        found[key] = self._info(key)
            return dict(sorted(found.items()))

    def head(self, key: str) -> ObjectInfo | None:
        """One file, or None."""
        with self._errors(self._uri_of(key)):
            return self._info(key) if (self._root / key).is_file() else None

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        """One byte range of a file."""
        buffer = bytearray(length)
        with self._errors(self._uri_of(key)), (self._root / key).open("rb", buffering=0) as file:
            if version is not None and _version(os.fstat(file.fileno())) != version:
                raise QuantizationError(
                    self._place.damaged, f"{self._uri_of(key)} was changed while it was read", "Run again."
                )
            file.seek(start)
            filled = 0
            while filled < length and (count := file.readinto(memoryview(buffer)[filled:])):
                filled += count
        if filled < length:
            raise QuantizationError(
                self._place.damaged,
                f"{self._uri_of(key)} ends after {start + filled} bytes; {start + length} were expected",
                "The file is cut short: copy it again.",
            )
        return buffer

    def put_file(self, key: str, path: Path, checkpoint: Checkpoint = keep_going) -> None:
        """Copies a file into place."""
        with self._errors(self._uri_of(key)), path.open("rb") as source, self._temporary(key) as file:
            while block := source.read(BLOCK):
                checkpoint()
                file.write(block)

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """Writes a small file; a condition is checked under a lock on its directory."""
        with self._errors(self._uri_of(key)):
            target = self._root / key
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target.parent):
                if if_absent and target.exists():
                    raise PreconditionFailedError(self._uri_of(key))
                if if_version is not None and (not target.exists() or _version(target.stat()) != if_version):
                    raise PreconditionFailedError(self._uri_of(key))
                with self._temporary(key) as file:
                    file.write(data)
            return _version(target.stat())

    def delete(self, keys: Iterable[str]) -> None:
        """Removes files, and the directories below the root that this leaves empty."""
        for key in keys:
            path = self._root / key
            with self._errors(self._uri_of(key)):
                path.unlink(missing_ok=True)
                for parent in path.parents:
                    if parent == self._root:
                        break
                    try:
                        parent.rmdir()
                    except OSError:  # not empty, or gone already
                        break

    def abort_uploads(self) -> int:
        """Removes temporary files of killed runs."""
        with self._errors(self.uri):
            left = list(self._root.rglob(f"{TEMPORARY}*")) if self._root.is_dir() else []
            for path in left:
                path.unlink(missing_ok=True)
            return len(left)

    def _uri_of(self, key: str) -> str:
        return f"file://{self._root / key}"

    def _info(self, key: str) -> ObjectInfo:
        stat = (self._root / key).stat()
        return ObjectInfo(key, stat.st_size, _version(stat))

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[BinaryIO]:
        """A file to write to; at the end it is made durable and takes the place of `key`."""
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, uri: str) -> Iterator[None]:
        """Gives errors of the operating system their category."""
        what = self._place.what
        try:
            yield
        except FileNotFoundError as error:
            raise QuantizationError(self._place.missing, f"{what}: {uri} does not exist") from error
        except (NotADirectoryError, FileExistsError) as error:
            raise QuantizationError(
                self._place.missing, f"{what}: {uri}: a part of the path is a file, not a directory"
            ) from error
        except PermissionError as error:
            raise QuantizationError(
                Category.ACCESS_DENIED,
                f"{what}: {uri}: permission denied",
                "Let the user of the process into the directory (of a volume: fsGroup, or the files' modes).",
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise QuantizationError(
                    Category.SCRATCH_FULL, f"{what}: no space left for {uri}", "Make room on that volume."
                ) from error
            if error.errno == errno.EROFS:
                raise QuantizationError(
                    Category.ACCESS_DENIED, f"{what}: {uri} lies on a read-only file system"
                ) from error
            if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
                raise QuantizationError(
                    Category.STORAGE_UNAVAILABLE, f"{what}: {uri}: {error.strerror}", "Check the volume."
                ) from error
            raise


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
