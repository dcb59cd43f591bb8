"""How a run ends: from exceptions to a result, and the termination message."""

import errno
import logging
import os
import traceback
from pathlib import Path

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import TERMINATION_MESSAGE_PATH, RunResult
from quantization_api.status import Failure
from quantization_api.text import clean, shortened
from quantizer.boundary.reading import is_panic
from quantizer.cli.logs import writable
from quantizer.cli.signals import Interrupted, Terminated

logger = logging.getLogger(__name__)

TERMINATION_ENV = "QUANTIZATION_TERMINATION_LOG"
TEXT_LIMIT = 1024
SHOWN_LIMIT = 8192
"""Characters of a message on a terminal: rich takes seconds for a long text."""
TRACEBACK_LIMIT = 20_000
ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "cannot allocate memory")


def categorize(error: BaseException) -> QuantizationError:
    """The one place where every exception gets its category.

    A traceback is logged only for unexpected exceptions.
    """
    if isinstance(error, QuantizationError):
        return error
    if isinstance(error, Terminated):
        signal = "SIGINT" if isinstance(error, Interrupted) else "SIGTERM"
        return QuantizationError(
            Category.DISRUPTED,
            f"the run was stopped by {signal} before it finished",
            exit_code=error.exit_code,
        )
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
    return isinstance(error, (Exception, Terminated)) or is_panic(error)


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
    return f"{error.category}: {clean(error.message, SHOWN_LIMIT)}\n{clean(error.hint_here, TEXT_LIMIT)}"


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


def _line(error: BaseException) -> str:
    return clean(str(error), TEXT_LIMIT) or type(error).__name__


def _traceback(error: BaseException) -> str:
    return shortened(writable("".join(traceback.format_exception(error))), TRACEBACK_LIMIT)
