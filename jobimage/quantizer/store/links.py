"""Which files of a folder are read: regular ones, and links to regular ones that lie where they may.

A folder that came from elsewhere can hold a link to any file of this machine, which would then be copied into an
artifact, and a FIFO or a device, which would never end. So links stay in their folder, with one exception: the hub's
client keeps models--NAME/snapshots/REVISION/FILE as links into models--NAME/blobs. (A ConfigMap or Secret that is
mounted has links too, which stay in the folder.)
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
    """A file that is not read. why: goes on where the path ends ("is a FIFO")."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.why = path, why


Bounds = Callable[[Path], bool]
"""Whether a resolved path is one that may be read."""


def in_folder(root: Path) -> Bounds:
    """The files of a folder, which is the link's own or the hub's client's."""
    real = root.resolve()
    roots = (real, real.parent.parent / "blobs") if real.parent.name == "snapshots" else (real,)
    return lambda path: any(path.is_relative_to(each) for each in roots)


def on_volume(root: Path) -> Bounds:
    """The files of the volume that a folder lies on, which other volumes may be mounted on."""
    volume = _volume_of(root.resolve())
    return lambda path: _volume_of(path.parent) == volume


def stays_inside(path: Path, root: Path) -> bool:
    """Whether a path, with all links followed as far as it exists, lies in the root or is it."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # links in a circle
        return False


def real_file(path: Path, bounds: Bounds) -> Path:
    """The regular file behind a path, all links followed. Nothing is opened.

    Raises:
        RefusedFileError: it is something else, lies out of bounds, or is a link that leads nowhere.
        FileNotFoundError: it is not there.
    """
    try:
        real = path.resolve()
    except RuntimeError:
        raise RefusedFileError(path, "is a link that points back to itself") from None
    if not bounds(real):
        raise RefusedFileError(path, f"is a link to {real}, which is outside the folder")
    found = stat.S_IFMT(_stat(path, real).st_mode)
    if found != stat.S_IFREG:
        raise RefusedFileError(path, f"is {KINDS.get(found, 'not a file')}")
    return real


def open_regular(path: Path) -> int:
    """A descriptor to read a resolved path with. Never waits, whatever has taken the file's place meanwhile.

    Raises:
        RefusedFileError: it is no regular file any more.
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


def _stat(path: Path, real: Path) -> os.stat_result:
    try:
        return real.lstat()
    except FileNotFoundError as error:
        if not path.is_symlink():
            raise
        raise RefusedFileError(path, f"is a link to {path.readlink()}, which does not exist") from error
