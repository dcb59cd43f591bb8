"""The scratch directory of a run, and what killed runs left of theirs.

    SCRATCH/run-k3xw91/.owner     locked by the process that owns the directory, while it lives

The kernel drops the lock with the process, however that ends, so a directory whose lock is free has no living owner.
That holds across containers too, where process numbers mean nothing to each other. A directory without that file is
not ours.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from quantization_api.failures import Category, QuantizationError

logger = logging.getLogger(__name__)

PREFIX, NEW_PREFIX = "run-", ".new-run-"
OWNER_NAME = ".owner"


@contextlib.contextmanager
def make_scratch(parent: Path) -> Iterator[str]:
    """A directory of this run below the scratch volume, removed at the end; those of killed runs are removed first.

    Raises:
        QuantizationError: Internal when the volume is not there; AccessDenied when it is not writable; ScratchFull.
    """
    remove_ownerless(parent)
    with _errors(parent):
        path, owner = _made(parent)
    try:
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(owner)


def remove_ownerless(parent: Path) -> int:
    """Removes the directories of runs that have ended; returns how many."""
    removed = sum(_removed(path) for path in _candidates(parent))
    if removed:
        logger.info("removed the scratch of %d killed runs from %s", removed, parent)
    return removed


def _candidates(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.name.startswith(PREFIX)]
    except OSError:  # making our own directory shows why
        return []


def _removed(path: Path) -> bool:
    """Removes a directory if it is of a run of this user and nobody holds its lock."""
    try:
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            return False
        owner = os.open(path / OWNER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no scratch directory of ours, or removed just now
        return False
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # its owner lives
        return False
    finally:
        os.close(owner)
    return not path.exists()


def _made(parent: Path) -> tuple[Path, int]:
    """A directory, and the descriptor that holds its lock; it gets its name when it is locked."""
    new = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=parent))
    owner = os.open(new / OWNER_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX)
        path = parent / f"{PREFIX}{new.name.removeprefix(NEW_PREFIX)}"
        new.rename(path)
    except OSError:
        os.close(owner)
        shutil.rmtree(new, ignore_errors=True)
        raise
    return path, owner


@contextlib.contextmanager
def _errors(parent: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise QuantizationError(
            Category.INTERNAL, f"the scratch directory {parent} does not exist"
        ) from error
    except PermissionError as error:
        raise QuantizationError(
            Category.ACCESS_DENIED, f"the scratch directory {parent} is not writable", "Use --scratch DIR."
        ) from error
