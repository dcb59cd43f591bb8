"""Memory and CPU of processes over time, from /proc."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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


class Repeated:
    """A context manager that calls `sample` in a thread, at its beginning and then every `interval` seconds."""

    def __init__(self, sample: Callable[[], None], interval: float) -> None:
        self._sample = sample
        self._interval = interval
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._sample()
            if self._ended.wait(self._interval):
                return


class Sampler(Repeated):
    """Samples resident memory, beside `count`: how far the load is then."""

    def __init__(self, pid: int, count: Callable[[], int] = int, interval: float = 1.0) -> None:
        super().__init__(self._note, interval)
        self._pid = pid
        self._count = count
        self.samples: list[tuple[float, int, float]] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._started = time.monotonic()
        self._cpu = cpu_seconds(self._pid)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; `cpu_share` is of the time between."""
        super().__exit__(kind, error, trace)
        self.cpu_share = (cpu_seconds(self._pid) - self._cpu) / (time.monotonic() - self._started)

    @property
    def peak_mb(self) -> float:
        """The most that was seen."""
        return max(memory for _, _, memory in self.samples)

    def _note(self) -> None:
        passed = time.monotonic() - self._started
        self.samples.append((passed, self._count(), resident_mb(self._pid)))


class Shares(Repeated):
    """The shares of a core that groups of processes take: `samples` has each interval's end, by the monotonic clock."""

    def __init__(self, pids: Mapping[str, Sequence[int]], interval: float = 5.0) -> None:
        super().__init__(self._note, interval)
        self._pids = pids
        self._last: tuple[float, dict[str, float]] | None = None
        self.samples: list[tuple[float, dict[str, float]]] = []

    def _note(self) -> None:
        now = time.monotonic()
        used = {name: sum(map(cpu_seconds, pids)) for name, pids in self._pids.items()}
        if self._last:
            then, before = self._last
            self.samples.append((now, {name: (used[name] - before[name]) / (now - then) for name in used}))
        self._last = now, used
