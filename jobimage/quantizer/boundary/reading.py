"""Where an input is read: whatever its reading raises is a fault of the input, and is reported as one.

Libraries raise anything for a bad file: pydantic's and huggingface's own errors, RecursionError, OverflowError, a
panic of Rust, which is no Exception. Naming them one by one would miss the next one. So each input is read inside
`reading`, and only reading: an error of a computation there would be taken for one of the input.
"""

import contextlib
import errno
from collections.abc import Iterator

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import clean

OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO)
"""Errors of the operating system that say nothing about the input."""


@contextlib.contextmanager
def reading(category: Category, what: str, hint: str = "") -> Iterator[None]:
    """Turns what the block raises into `category`: "`what` cannot be used: ", with the reason.

    What says something about the process passes: an error that has a category, the end of the process, a stop
    signal, memory or disk that is full. Sizes that an input claims are compared with bounds before anything is
    allocated, so a MemoryError is not the input's.
    """
    try:
        yield
    except BaseException as error:
        if not is_of_input(error):
            raise
        raise QuantizationError(category, f"{what} cannot be used: {reason(error)}", hint) from error


def is_of_input(error: BaseException) -> bool:
    """Whether an error that reading raised says something about the input, and has no category yet."""
    if isinstance(error, (QuantizationError, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return False
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return False
    return isinstance(error, Exception) or is_panic(error)


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of a library in Rust; its class is in no module that could be imported."""
    return type(error).__module__.startswith("pyo3_runtime")


def reason(error: BaseException, limit: int = 512) -> str:
    """What an error says, in one short line; its type where it says nothing or only a name."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
    text = clean(str(error), limit)
    if isinstance(error, KeyError) or " " not in text:
        return f"{type(error).__name__} {text}".strip()
    return text
