"""Which files of a folder are read: regular files, and links to regular files within bounds.

A folder from elsewhere can hold a link to any file on this machine, which would then be copied into an artifact, or a
FIFO or a device, whose reading would never end. So links must stay in their folder, with one exception: the hub
client stores models--NAME/snapshots/REVISION/FILE as links into models--NAME/blobs. (Mounted ConfigMaps and Secrets
have links too; those stay in the folder.)
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


class RefusedFileError(Exception):
    """A file that must not be read. why: the rest of a sentence that begins with the path ("is a FIFO")."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.why = path, why


class BrokenLinkError(RefusedFileError):
    """A link to nothing."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"is a link to {path.readlink()}, which does not exist")


Bounds = Callable[[Path], bool]
"""Whether a resolved path may be read."""


def in_folder(root: Path) -> Bounds:
    """The files of a folder, and of the hub client's blobs folder if it is a snapshot."""
    real = root.resolve()
    roots = (real, real.parent.parent / "blobs") if real.parent.name == "snapshots" else (real,)
    return lambda path: any(path.is_relative_to(each) for each in roots)


def on_volume(root: Path) -> Bounds:
    """The files of a folder's volume, but not of volumes mounted inside it."""
    volume = _volume_of(root.resolve())
    return lambda path: _volume_of(path.parent) == volume


def stays_inside(path: Path, root: Path) -> bool:
    """Whether a path, with all links followed, is the root or inside it."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # links in a circle
        return False


def real_file(path: Path, bounds: Bounds) -> Path:
    """The regular file behind a path, following all links. Nothing is opened.

    Raises:
        RefusedFileError: it is something else, or out of bounds.
        BrokenLinkError: it is a link to nothing, wherever that would be.
        FileNotFoundError: it does not exist.
    """
    try:
        real = path.resolve()
    except RuntimeError:
        raise RefusedFileError(path, "is a link that points back to itself") from None
    if path.is_symlink() and not os.path.lexists(real):
        raise BrokenLinkError(path)
    if not bounds(real):
        raise RefusedFileError(path, f"is a link to {real}, which is outside the folder")
    found = stat.S_IFMT(real.lstat().st_mode)
    if found != stat.S_IFREG:
        raise RefusedFileError(path, f"is {KINDS.get(found, 'not a file')}")
    return real


def open_regular(path: Path) -> int:
    """A descriptor for reading a resolved path. Never blocks, whatever has replaced the file in the meantime.

    Raises:
        RefusedFileError: it is no longer a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise RefusedFileError(path, "was replaced by a link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedFileError(path, "is no longer a regular file")
    return descriptor


def _volume_of(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.is_mount() or parent == parent.parent)
