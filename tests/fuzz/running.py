"""Runs a command of the quantizer in a process of its own, and measures it.

Processes are forked from this one, which has torch and transformers loaded and has never computed: a thread of torch
would be missing in them. Each has one processor, a limit of time and one of memory.
"""

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS = 20.0
BYTES = 10**9
ROOM = 12 * 10**9
"""Address space beside what this process has: far more than a sound run takes, far less than the machine has.

Memory that is asked for and never written to costs nothing; what was written to is measured at the end.
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended. code: its exit code, or minus the signal that ended it. bytes: resident at the peak."""

    code: int
    seconds: float
    bytes: int
    log: str
    timed_out: bool


def load() -> None:
    """Loads what commands need, so that forked processes find it there."""


def in_a_process(action: Callable[[], int], log: Path, seconds: float = SECONDS) -> Ended:
    """Runs `action`, whose result is the exit code, with standard output and standard error in the file `log`.

    seconds: after which it is killed, on a machine that does nothing else; with other work beside it, as much longer.
    """
    began = time.monotonic()
    seconds *= max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    child = os.fork()
    if child == 0:
        _child(action, log)
    pidfd = os.pidfd_open(child)
    try:
        timed_out = not select.select([pidfd], [], [], seconds)[0]
        if timed_out:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(pidfd)
    return Ended(
        os.waitstatus_to_exitcode(status),
        time.monotonic() - began,
        usage.ru_maxrss * 1024,
        log.read_text(errors="replace"),
        timed_out,
    )


def _child(action: Callable[[], int], log: Path) -> None:
    """Never returns: what is above it on the stack is the parent's."""
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(
                0, {min(os.sched_getaffinity(0))} if os.getpid() % 2 else {max(os.sched_getaffinity(0))}
            )
        descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(descriptor, number)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = action()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the judge reads it in the log
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)
