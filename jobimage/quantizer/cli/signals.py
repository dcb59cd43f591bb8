"""SIGTERM and SIGINT (Ctrl-C): from the first instruction of a command to its last, without a traceback.

while there is nothing to tidy up      the process says so and ends at once (an import that is torn apart by an
                                       exception leaves a library in pieces, and C code may not survive it)
in work                                the main thread unwinds, and other threads end at their next stop check
GRACE_SECONDS later, or at a second    the process ends at once, which is always safe: objects are stored
Ctrl-C                                 completely or not at all, the manifest last
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from quantization_api.failures import ExitCode

GRACE_SECONDS = 8.0
SAME_SECONDS = 0.5
"""A SIGINT so soon after the first is the same Ctrl-C, passed on by a parent process."""


class Terminated(BaseException):
    """SIGTERM was received: unwind now."""

    exit_code = ExitCode.TERMINATED


class Interrupted(Terminated):
    """SIGINT was received: somebody pressed Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED


LastWords = Callable[[Terminated], object]
"""Says how the command ended; called once, where it cannot unwind."""


class Stopping:
    """Whether the command was told to stop; safe to ask from any thread."""

    def __init__(self) -> None:
        self.cause: Terminated | None = None
        self.unwinds = False
        """From now on there is something to tidy up, so a signal unwinds the main thread."""

    def check(self) -> None:
        """Raises what the command was told to stop by."""
        if self.cause is not None:
            raise type(self.cause)  # a new one: several threads may raise


def cause_of(signals: bytes) -> Terminated | None:
    """What the numbers of received signals ask for."""
    if signal.SIGTERM in signals:
        return Terminated()
    return Interrupted() if signal.SIGINT in signals else None


@contextlib.contextmanager
def stopped_by_signals(last_words: LastWords) -> Iterator[Stopping]:
    """Inside, SIGTERM and SIGINT raise Terminated in the main thread, once `unwinds` is set; else they end the process.

    The handler runs in the main thread, which a long matrix product can delay. So a thread reads the wake-up
    descriptor, which is written at once: it tells the other threads, and its clock starts with the signal.
    """
    stopping, ended = Stopping(), threading.Event()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)

    def leave(cause: Terminated) -> None:
        last_words(cause)
        os._exit(int(cause.exit_code))

    def handler(number: int, _: FrameType | None) -> None:
        for each in taken:  # not SIG_IGN, with which the watcher would not hear of a second Ctrl-C
            signal.signal(each, _nothing)
        cause = stopping.cause = stopping.cause or cause_of(bytes([number])) or Terminated()
        if not stopping.unwinds:
            leave(cause)
        raise cause

    watcher = threading.Thread(
        target=_watch, args=(read_end, stopping, ended, leave), name="signals", daemon=True
    )
    watcher.start()
    earlier_descriptor = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    taken = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) is not signal.SIG_IGN]
    earlier = {each: signal.signal(each, handler) for each in taken}
    try:
        with _quiet_hooks():
            yield stopping
    finally:
        ended.set()
        for each, handled in earlier.items():
            signal.signal(each, handled)
        signal.set_wakeup_fd(earlier_descriptor)
        os.close(write_end)
        watcher.join()
        os.close(read_end)


def _nothing(_: int, __: FrameType | None) -> None:
    """Heard already."""


def _watch(read_end: int, stopping: Stopping, ended: threading.Event, leave: LastWords) -> None:
    """Until the other end of the pipe is closed, or the process has to end."""
    told = 0.0
    while True:
        left = told + GRACE_SECONDS - time.monotonic() if told else None
        if left is not None and (left <= 0 or not select.select([read_end], [], [], left)[0]):
            break
        if not (received := os.read(read_end, 64)):
            return
        if told and signal.SIGINT in received and time.monotonic() - told > SAME_SECONDS:
            break
        if not told and (cause := cause_of(received)) is not None:
            stopping.cause = stopping.cause or cause
            told = time.monotonic()
    if stopping.cause is not None and not ended.is_set():
        leave(stopping.cause)


@contextlib.contextmanager
def _quiet_hooks() -> Iterator[None]:
    """Inside, a signal's exception that a finalizer swallows or that ends a thread is not shown: checks follow."""
    earlier = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = _without_signals(sys.unraisablehook)
    threading.excepthook = _without_signals(threading.excepthook)
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = earlier


def _without_signals(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    def filtered(arguments: Any) -> None:
        if not isinstance(arguments.exc_value, Terminated):
            hook(arguments)

    return filtered
