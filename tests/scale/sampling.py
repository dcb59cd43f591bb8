"""Memory and CPU of a process over time, from /proc."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def cpu_seconds(pid: int) -> float:
    """CPU time that it has used, of user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Sampler:
    """Samples resident memory every `interval` seconds, beside `count`: how far the load is then."""

    def __init__(self, pid: int, count: Callable[[], int] = int, interval: float = 1.0) -> None:
        self._pid = pid
        self._count = count
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, int, float]] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._started = time.monotonic()
        self._cpu = cpu_seconds(self._pid)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; `cpu_share` is of the time between."""
        self._ended.set()
        self._thread.join()
        self.cpu_share = (cpu_seconds(self._pid) - self._cpu) / (time.monotonic() - self._started)

    @property
    def peak_mb(self) -> float:
        """The most that was seen."""
        return max(memory for _, _, memory in self.samples)

    def _run(self) -> None:
        while True:
            passed = time.monotonic() - self._started
            self.samples.append((passed, self._count(), resident_mb(self._pid)))
            if self._ended.wait(self._interval):
                return
