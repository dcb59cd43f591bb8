"""How a run ends: from exceptions to a result, the termination message, and SIGTERM."""

import contextlib
import errno
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from quantization_api.failures import Category, ExitCode, QuantizationError
from quantization_api.pod import TERMINATION_MESSAGE_PATH, RunResult
from quantization_api.status import Failure
from quantization_api.text import clean, shortened
from quantizer.boundary.reading import is_panic
from quantizer.cli.logs import writable

logger = logging.getLogger(__name__)

TERMINATION_ENV = "QUANTIZATION_TERMINATION_LOG"
GRACE_SECONDS = 8.0
TEXT_LIMIT = 1024
SHOWN_LIMIT = 8192
"""Characters of a message on a terminal: rich takes seconds for a long text."""
TRACEBACK_LIMIT = 20_000
ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "cannot allocate memory")


class Terminated(BaseException):
    """SIGTERM was received: unwind now."""


def categorize(error: BaseException) -> QuantizationError:
    """The one place where every exception gets its category.

    A traceback is logged only for unexpected exceptions.
    """
    if isinstance(error, QuantizationError):
        return error
    if isinstance(error, Terminated):
        return QuantizationError(Category.DISRUPTED, "the run was stopped by SIGTERM before it finished")
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return QuantizationError(Category.GPU_OUT_OF_MEMORY, f"the GPU ran out of memory: {_line(error)}")
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in ALLOCATION_FAILED)
    ):
        return QuantizationError(Category.HOST_OUT_OF_MEMORY, f"a memory allocation failed: {_line(error)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return QuantizationError(Category.SCRATCH_FULL, f"no space left: {_line(error)}")
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return QuantizationError(Category.HOST_OUT_OF_MEMORY, f"a memory allocation failed: {_line(error)}")
    logger.error("unexpected %s\n%s", type(error).__name__, _traceback(error))
    return QuantizationError(Category.INTERNAL, f"{type(error).__name__}: {_line(error)}")


def must_end(error: BaseException) -> bool:
    """Whether an exception ends a command with a category; others (SystemExit) are left to the interpreter."""
    return isinstance(error, (Exception, KeyboardInterrupt, Terminated)) or is_panic(error)


def failed(error: QuantizationError) -> RunResult:
    """The result of a failed run; its texts are single printable lines of bounded length."""
    return RunResult(
        failure=Failure(
            category=error.category,
            message=clean(error.message, TEXT_LIMIT),
            hint=clean(error.hint, TEXT_LIMIT),
            exit_code=int(error.exit_code),
        )
    )


def in_words(error: QuantizationError) -> str:
    """The error for people: what happened, and on the next line what to change."""
    return f"{error.category}: {clean(error.message, SHOWN_LIMIT)}\n{clean(error.hint, TEXT_LIMIT)}"


def termination_path(in_pod: bool) -> Path | None:
    """Where the result is written: the file named in the environment, else in a pod Kubernetes' default."""
    named = os.environ.get(TERMINATION_ENV)
    if named:
        return Path(named)
    return Path(TERMINATION_MESSAGE_PATH) if in_pod else None


def leave_message(result: RunResult, path: Path | None) -> None:
    """Writes the termination message. A failure is only logged: the exit code still tells the category."""
    if path is None:
        return
    try:
        path.write_text(result.to_message(), encoding="utf-8")
    except (OSError, ValueError) as error:
        logger.error("the termination message cannot be written to %s: %s", path, error)


@contextlib.contextmanager
def terminated_by_sigterm(last_words: Callable[[], None]) -> Iterator[threading.Event]:
    """Inside, SIGTERM raises Terminated in the main thread and sets the event that is yielded.

    A long matrix product can delay the main thread: if the block has not ended GRACE_SECONDS after the
    signal, `last_words` is called and the process exits at once, which is always safe (objects are stored
    completely or not at all, the manifest last).
    """
    stopping, ended = threading.Event(), threading.Event()
    # The handler runs in the main thread and may be delayed too; the wake-up descriptor is written at
    # once, so the clock starts with the signal.
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)

    def watch() -> None:
        while received := os.read(read_end, 64):
            if signal.SIGTERM in received:
                stopping.set()
                if not ended.wait(GRACE_SECONDS):
                    last_words()
                    os._exit(int(ExitCode.TERMINATED))

    def handler(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    watcher = threading.Thread(target=watch, name="sigterm", daemon=True)
    watcher.start()
    earlier_descriptor = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    earlier_handler = signal.signal(signal.SIGTERM, handler)
    try:
        yield stopping
    finally:
        ended.set()
        signal.signal(signal.SIGTERM, earlier_handler)
        signal.set_wakeup_fd(earlier_descriptor)
        os.close(write_end)
        watcher.join()
        os.close(read_end)


def _line(error: BaseException) -> str:
    return clean(str(error), TEXT_LIMIT) or type(error).__name__


def _traceback(error: BaseException) -> str:
    return shortened(writable("".join(traceback.format_exception(error))), TRACEBACK_LIMIT)
