"""A directory as a store: writes are whole or not at all (temporary file, then rename).

Only regular files are read, and links that stay inside the folder (see links.py).
"""

import contextlib
import errno
import functools
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, Self, TypeVar

from quantizer.store.directory_errors import translated
from quantizer.store.directory_locks import locked, prune
from quantizer.store.interface import (
    DATA,
    INPUTS,
    Buffer,
    ObjectInfo,
    Place,
    PreconditionFailedError,
    StopCheck,
    never_stop,
)
from quantizer.store.keys import checked
from quantizer.store.links import (
    BrokenLinkError,
    in_folder,
    on_volume,
    open_regular,
    real_file,
    stays_inside,
)
from quantizer.store.patience import Patience

BLOCK = 8 * 1024 * 1024
TEMPORARY = ".upload-"
NO_LINKS = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of a file system that allows a file only one name, or no more names."""
BEGINNINGS = 8

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def _patient(
    method: "Callable[Concatenate[DirectoryStore, Arguments], Answer]",
) -> "Callable[Concatenate[DirectoryStore, Arguments], Answer]":
    """Repeats a method while the volume's server is away."""

    def call(store: "DirectoryStore", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        return store.patience.call(lambda: method(store, *args, **kwargs))

    return functools.update_wrapper(call, method)


class DirectoryStore:
    """Objects are the files below `root`; the directory is made at the first write.

    patience: for a volume whose server is away.
    """

    def __init__(self, root: Path, place: Place, patience: Patience | None = None) -> None:
        self._root = root
        self._place = place
        self.patience = patience or Patience()

    @property
    def uri(self) -> str:
        """file:// URI of the root."""
        return f"file://{self._root}"

    def impatient(self) -> Self:
        """The store itself: waiting for a directory delays no renewal."""
        return self

    @_patient
    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """Every file whose relative path starts with prefix, following links, without unfinished writes."""
        with translated(self._place, self.uri):
            if not self._root.is_dir():
                if self._root.is_symlink() and self._place in INPUTS:
                    raise BrokenLinkError(self._root)
                return {}
            found = {}
            for path in self._files():
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and not path.name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):  # just removed by another process
                        found[key] = self._listed(key)
            return dict(sorted(found.items()))

    def _files(self) -> Iterator[Path]:
        """Every file below the root; without directories that another process removes meanwhile."""
        for directory, _, names in os.walk(self._root, onerror=_raise_unless_gone):
            yield from (Path(directory) / name for name in names)

    @_patient
    def head(self, key: str) -> ObjectInfo | None:
        """One file, or None."""
        with translated(self._place, self._uri_of(key)):
            path = self._root / checked(self._place, key)
            if path.is_dir() or not os.path.lexists(path):
                return None
            try:
                return self._info(key)
            except FileNotFoundError:  # just removed by another process
                return None

    @_patient
    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        """One byte range of a file."""
        buffer = bytearray(length)
        with translated(self._place, self._uri_of(key)), self._opened(key) as file:
            if version is not None and _version(os.fstat(file.fileno())) != version:
                raise self._place.change(self._uri_of(key), "changed while it was being read")
            file.seek(start)
            filled = 0
            while filled < length and (count := file.readinto(memoryview(buffer)[filled:])):
                filled += count
        if filled < length:
            raise self._place.change(
                self._uri_of(key), f"ends after {start + filled} bytes; {start + length} were expected"
            )
        return buffer

    @_patient
    def put_file(self, key: str, path: Path, stop_check: StopCheck = never_stop) -> None:
        """Copies a file into place."""
        with (
            translated(self._place, self._uri_of(key)),
            path.open("rb") as source,
            self._temporary(key) as file,
        ):
            while block := source.read(BLOCK):
                stop_check()
                file.write(block)

    @_patient
    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """Writes a small file; a condition is checked under a lock on its directory."""
        with translated(self._place, self._uri_of(key)):
            target = self._inside(key)
            with locked(target.parent):
                if if_absent and target.exists():
                    raise PreconditionFailedError(self._uri_of(key))
                if if_version is not None and (not target.exists() or _version(target.stat()) != if_version):
                    raise PreconditionFailedError(self._uri_of(key))
                with self._temporary(key) as file:
                    file.write(data)
            return _version(target.stat())

    @_patient
    def copy(self, source: str, target: str) -> None:
        """A hard link where the file system supports it, otherwise a copy."""
        with translated(self._place, self._uri_of(source)):
            origin, place = self._real(source), self._target(target)
            link = place.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
            try:
                os.link(origin, link)
                with locked(place.parent):
                    link.replace(place)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._copy_bytes(origin, target)
            finally:
                link.unlink(missing_ok=True)

    @_patient
    def delete_if(self, key: str, version: str) -> None:
        """Removes a file; the condition is checked under a lock on its directory."""
        with translated(self._place, self._uri_of(key)):
            path = self._inside(key)
            if not path.exists():
                return
            with locked(path.parent):
                if path.exists() and _version(path.stat()) != version:
                    raise PreconditionFailedError(self._uri_of(key))
                path.unlink(missing_ok=True)
            prune(path, self._root)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes files, and the directories below the root that this leaves empty."""
        for key in keys:
            self._unlink(key)

    @_patient
    def abort_uploads(self) -> int:
        """Removes temporary files of killed runs."""
        with translated(self._place, self.uri):
            files = self._files() if self._root.is_dir() else ()
            left = [path for path in files if path.name.startswith(TEMPORARY)]
            for path in left:
                path.unlink(missing_ok=True)
            return len(left)

    def _uri_of(self, key: str) -> str:
        return f"file://{self._root / key}"

    @_patient
    def _unlink(self, key: str) -> None:
        with translated(self._place, self._uri_of(key)):
            path = self._inside(key)
            path.unlink(missing_ok=True)
            prune(path, self._root)

    def _copy_bytes(self, origin: Path, key: str) -> None:
        with origin.open("rb") as source, self._temporary(key) as file:
            while block := source.read(BLOCK):
                file.write(block)

    def _inside(self, key: str) -> Path:
        """The path of a key; refused if a link on the way leads out of the root."""
        path = self._root / checked(self._place, key)
        if not stays_inside(path.parent, self._root):
            raise self._place.refusal(self._uri_of(key), "is behind a link that leads out of the folder")
        return path

    def _target(self, key: str) -> Path:
        """Where a key is written; makes its directory."""
        path = self._inside(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _real(self, key: str) -> Path:
        """The regular file behind a key, following all links."""
        # A text is often given as a link to its newest version elsewhere on the volume.
        bounds = on_volume(self._root) if self._place is DATA else in_folder(self._root)
        return real_file(self._root / checked(self._place, key), bounds)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[FileIO]:
        try:
            descriptor = open_regular(self._real(key))
        except FileNotFoundError as error:
            how = "was deleted during the run"
            raise self._place.change(self._uri_of(key), how) from error
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            yield file

    def _listed(self, key: str) -> ObjectInfo:
        """A file, or a link to nothing among the inputs: many a folder has one that nobody reads."""
        try:
            return self._info(key)
        except BrokenLinkError:
            if self._place not in INPUTS:
                raise
            return ObjectInfo(key, 0, "", broken=True)

    def _info(self, key: str) -> ObjectInfo:
        stat = self._real(key).stat()
        return ObjectInfo(key, stat.st_size, _version(stat))

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[BinaryIO]:
        """A file to write to; at the end it is synced and renamed to `key`."""
        target, descriptor, name = self._begin(key)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            try:
                Path(name).replace(target)
            except (
                FileNotFoundError
            ) as error:  # another process took it for a killed run's: it is written again
                raise OSError(errno.ESTALE, "a file was removed while it was being written") from error
        finally:
            Path(name).unlink(missing_ok=True)

    def _begin(self, key: str) -> tuple[Path, int, str]:
        """The path of a key, and an open temporary file beside it.

        Repeated, since another process may remove the directory while it is empty.
        """
        for _ in range(BEGINNINGS):
            target = self._target(key)
            with contextlib.suppress(FileNotFoundError):
                return target, *tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
