"""Locks on directories, for conditional writes, and for removing only those that no process is about to use."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Holds the lock of the directory that has this name now, not of one that was removed in the meantime.

    wait: make the directory and wait for the lock; if False, raise OSError where either would be needed.
    """
    while True:
        if wait:
            directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if not wait:
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _has_name(descriptor, directory):
                yield
                return
        finally:
            os.close(descriptor)


def _has_name(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except FileNotFoundError:
        return False


def prune(path: Path, root: Path) -> None:
    """Removes the directories between a removed file and the root that are empty and that no process locks.

    Nested empty ones go too: a process that was killed before removing them left them.
    """
    for parent in path.parents:
        if parent == root:
            break
        if not _is_hollow(parent):
            break
        for hollow, _, _ in os.walk(parent, topdown=False):
            with contextlib.suppress(OSError), locked(Path(hollow), wait=False):  # gone already, or in use
                Path(hollow).rmdir()


def _is_hollow(directory: Path) -> bool:
    """Whether there is no file anywhere below it."""
    return not any(
        names or any((Path(here) / name).is_symlink() for name in folders)
        for here, folders, names in os.walk(directory)
    )
