"""Marks where an input is read: whatever that raises is reported as a fault of the input.

Libraries raise anything for a bad file: errors of pydantic and huggingface, RecursionError, OverflowError, even a Rust
panic, which is not an Exception. A list of them would never be complete. So each input is read inside `reading`, and
nothing else is done there: an error of a computation would be blamed on the input.
"""

import contextlib
import errno
from collections.abc import Iterator

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import clean

OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO)
"""Errors of the operating system that are not the input's fault."""


@contextlib.contextmanager
def reading(category: Category, what: str, hint: str = "") -> Iterator[None]:
    """Turns what the block raises into `category`: "`what` cannot be used: ", with the reason.

    Errors of the process pass through: those that have a category already, exits, stop signals, full memory or disk.
    Sizes claimed by an input are checked before anything is allocated, so a MemoryError is not the input's fault.
    """
    try:
        yield
    except BaseException as error:
        if not is_of_input(error):
            raise
        raise QuantizationError(category, f"{what} cannot be used: {reason(error)}", hint) from error


def is_of_input(error: BaseException) -> bool:
    """Whether an error raised while reading is the input's fault and has no category yet."""
    if isinstance(error, (QuantizationError, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return False
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return False
    return isinstance(error, Exception) or is_panic(error)


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of a Rust library; its class cannot be imported."""
    return type(error).__module__.startswith("pyo3_runtime")


def reason(error: BaseException, limit: int = 512) -> str:
    """An error's message in one short line; with its type if the message is empty or only a name."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return (
            f"it is not {error.encoding.upper()} text: byte {error.start} is {error.object[error.start]:#04x}"
        )
    text = clean(str(error), limit)
    if isinstance(error, KeyError) or " " not in text:
        return f"{type(error).__name__} {text}".strip()
    return text
