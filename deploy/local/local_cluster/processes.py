"""Servers that outlive the command that starts them: how they are started, recognized later, and stopped.

A process number alone proves nothing, since the kernel gives it to another program later. So the record of a server
also holds the machine's boot, the process's start time and its command line, and all must match before it is signalled.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from local_cluster.errors import ClusterError
from local_cluster.settings import Settings

MARK = "QUANTIZATION_LOCAL_CLUSTER"
"""Environment variable of every server, and so of its descendants: the state directory of the cluster it belongs to."""

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Server:
    """What to run under which name; `config` is the text of its files, so that a change of it restarts the server."""

    name: str
    argv: tuple[str, ...]
    config: str = ""

    @property
    def fingerprint(self) -> str:
        """Digest of the command line and the configuration."""
        return hashlib.sha256(json.dumps([self.argv, self.config]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """What identifies a started server."""

    pid: int
    started: int
    boot: str
    argv: list[str]
    fingerprint: str


def boot_id() -> str:
    """The kernel's name for the time since the machine was started."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks between boot and the process's start; None when it does not live (a zombie does not)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


def command_line(pid: int) -> list[str]:
    """The process's arguments; empty when it is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def resident_bytes(pid: int) -> int:
    """Memory that the process holds now."""
    try:
        pages = (_PROC / str(pid) / "statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _record_path(settings: Settings, name: str) -> Path:
    return settings.pids / f"{name}.json"


def running(settings: Settings, name: str) -> Record | None:
    """The record of a server that lives, recognized by more than its number; None otherwise."""
    try:
        record = Record(**json.loads(_record_path(settings, name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # never started, or the record was cut off while it was written
    # The command line is empty for a moment while the kernel replaces the program.
    alive = (
        record.boot == boot_id()
        and start_time(record.pid) == record.started
        and command_line(record.pid) in ([], record.argv)
    )
    return record if alive else None


def start(settings: Settings, server: Server) -> bool:
    """Start a server in a session of its own, unless it runs just so already; True when it was started.

    A server that runs with another command line or configuration is stopped first.
    """
    current = running(settings, server.name)
    if current and current.fingerprint == server.fingerprint:
        return False
    if current:
        stop(settings, [server.name])
    settings.logs.mkdir(parents=True, exist_ok=True)
    settings.pids.mkdir(parents=True, exist_ok=True)
    with (settings.logs / f"{server.name}.log").open("ab") as log:
        log.write(f"--- started {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n".encode())
        log.flush()
        process = subprocess.Popen(
            server.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=settings.state,
            env={**os.environ, MARK: str(settings.state)},
            start_new_session=True,
        )
    started = start_time(process.pid)
    if started is not None:
        record = Record(process.pid, started, boot_id(), list(server.argv), server.fingerprint)
        path = _record_path(settings, server.name)
        path.with_suffix(".new").write_text(json.dumps(asdict(record)))
        path.with_suffix(".new").replace(path)
    return True


def stop(settings: Settings, names: Sequence[str], limit: float = 5.0) -> None:
    """Ask the named servers to end, all at once, and end those by force that still live after `limit` seconds.

    Raises:
        ClusterError: one cannot be ended, not even by force.
    """
    records = {name: record for name in names if (record := running(settings, name))}
    for record in records.values():
        _signal(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + limit
    for name, record in records.items():
        if not _ended(record, deadline):
            _signal(record.pid, signal.SIGKILL)
            if not _ended(record, time.monotonic() + limit):
                raise ClusterError(f"{name} (process {record.pid}) does not end, not even by force")
    for name in names:
        _record_path(settings, name).unlink(missing_ok=True)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _ended(record: Record, deadline: float) -> bool:
    while start_time(record.pid) == record.started:
        if time.monotonic() > deadline:
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(record.pid, os.WNOHANG)  # when it is our own child, it would stay a zombie
        time.sleep(0.02)
    return True


def log_tail(settings: Settings, name: str, lines: int = 10) -> str:
    """The last lines of a server's log."""
    try:
        text = (settings.logs / f"{name}.log").read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def marked_processes(settings: Settings) -> dict[int, str]:
    """Every living process that carries this cluster's mark (the servers and the shims of containerd), with its name.

    It finds also what no record names: a server whose start was interrupted before its record was written.
    """
    mark = f"{MARK}={settings.state}".encode()
    return {pid: _name(pid) for pid in _process_ids() if mark in _environment(pid).split(b"\0")}


def _name(pid: int) -> str:
    argv = command_line(pid)
    return Path(argv[0]).name if argv else "?"


def _process_ids() -> Iterator[int]:
    for entry in _PROC.iterdir():
        if (
            entry.name.isdecimal()
            and int(entry.name) != os.getpid()
            and start_time(int(entry.name)) is not None
        ):
            yield int(entry.name)


def _environment(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
