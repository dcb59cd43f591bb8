"""How a command ends for a person: with an exit code, and with a sentence if it failed or was interrupted."""

import contextlib
import os
import sys
from collections.abc import Callable

from rich.console import Console

from quantization_api.failures import ExitCode, QuantizationError
from quantizer.cli import logs
from quantizer.cli.signals import Stopping, Terminated, stopped_by_signals
from quantizer.cli.termination import categorize, in_words, must_end

WIDE = 1_000_000
"""Columns where nobody sees the edge: what goes into a pipe or a file is not wrapped."""
SHOW_CURSOR = "\x1b[?25h"


def console(stderr: bool = False) -> Console:
    """Standard output or standard error; lines are as long as their text unless they go to a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    with contextlib.suppress(AttributeError, ValueError):  # closed
        if stream.isatty():
            return Console(stderr=stderr)
    return Console(stderr=stderr, width=WIDE)


def show(where: Console, text: str) -> None:
    """Prints a failure. A closed or full standard error does not change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        where.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def say_and_leave(text: str) -> None:
    """Prints where nothing can be relied on, not even a lock: the process ends right after."""
    with contextlib.suppress(OSError):
        os.write(2, f"{SHOW_CURSOR if os.isatty(2) else ''}{text}\n".encode(errors="backslashreplace"))


def sentence(error: QuantizationError, interrupted: str) -> str:
    """What a person reads of an error. interrupted: what is left after Ctrl-C, and what to do then."""
    return f"Interrupted. {interrupted}" if error.exit_code == ExitCode.INTERRUPTED else in_words(error)


def guarded(
    action: Callable[[Console, Stopping], None], interrupted: str = "Run the same command to begin again."
) -> int:
    """Runs the action and returns the exit code; its console is for everything but its result.

    The action sets `unwinds` as soon as it has something to tidy up.
    """
    logs.set_up(as_json=False)
    beside = console(stderr=True)

    def last_words(cause: Terminated) -> None:
        say_and_leave(sentence(categorize(cause), interrupted))

    try:
        with stopped_by_signals(last_words) as stopping:
            action(beside, stopping)
    except BaseException as error:
        if not must_end(error):
            raise
        known = categorize(error)
        show(beside, sentence(known, interrupted))
        return int(known.exit_code)
    return int(ExitCode.DONE)
