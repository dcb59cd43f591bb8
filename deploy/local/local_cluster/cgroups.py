"""The control groups below which the pods run: made before the kubelet asks for them, emptied and removed after."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from local_cluster.configuration import CGROUP

_MOUNT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuset", "memory", "pids")


def unified() -> bool:
    """Whether the machine has only the newer hierarchy (version 2)."""
    return (_MOUNT / "cgroup.controllers").exists()


def missing_controllers() -> list[str]:
    """Controllers that the kubelet needs and the machine does not offer."""
    if unified():
        offered = (_MOUNT / "cgroup.controllers").read_text().split()
    else:
        offered = [path.name for path in _MOUNT.iterdir() if path.is_dir()]
        offered += [name for path in list(offered) for name in path.split(",")]
    return [name for name in _NEEDED if name not in offered]


def create() -> None:
    """Make the group in every hierarchy."""
    if unified():
        for name in _NEEDED:
            with contextlib.suppress(OSError):  # already enabled, or not offered: the doctor has said so
                (_MOUNT / "cgroup.subtree_control").write_text(f"+{name}")
        (_MOUNT / CGROUP).mkdir(exist_ok=True)
        return
    for hierarchy in _hierarchies():
        if (hierarchy / "tasks").exists():  # not the version 2 hierarchy that may be mounted beside
            (hierarchy / CGROUP).mkdir(exist_ok=True)


def _hierarchies() -> Iterator[Path]:
    """The mounted hierarchies of version 1; links such as cpu,cpuacct -> cpu are the same ones again."""
    for path in sorted(_MOUNT.iterdir()):
        if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists():
            yield path


def existing() -> list[Path]:
    """The group's directories that exist."""
    roots = [_MOUNT] if unified() else list(_hierarchies())
    return [root / CGROUP for root in roots if (root / CGROUP).exists()]


def processes() -> set[int]:
    """Processes inside the group: whatever runs in pods."""
    found: set[int] = set()
    for group in existing():
        for listing in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.update(int(line) for line in listing.read_text().split())
    return found


def kill() -> None:
    """Kill whatever still runs in pods."""
    for pid in processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove() -> None:
    """Remove the group everywhere, deepest directory first; one that is not empty yet stays."""
    for group in existing():
        for directory in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                directory.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
