"""The identity of a run without a cluster: its process. So two runs on one machine never share an output,
and what a killed run claimed is free at once."""

import os
import socket
from pathlib import Path

PREFIX = "local"
PROCESSES = Path("/proc")
STATE_FIELDS = 2  # "pid (name) ": the name may hold anything, so fields are counted after the last ")"
START_FIELD = (
    21 - STATE_FIELDS
)  # starttime of proc(5): distinguishes a process from a later one with its number


def local_uid() -> str:
    """local:HOST:PID:START of this process."""
    return f"{PREFIX}:{socket.gethostname()}:{os.getpid()}:{_start_of(os.getpid())}"


def has_ended(uid: str) -> bool:
    """True if uid names a process of this machine that has ended; False if that cannot be known."""
    parts = uid.split(":")
    if len(parts) != 4 or parts[0] != PREFIX or parts[1] != socket.gethostname() or not parts[2].isdigit():
        return False
    return _start_of(int(parts[2])) != parts[3]


def _start_of(pid: int) -> str:
    try:
        text = (PROCESSES / str(pid) / "stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[START_FIELD]
