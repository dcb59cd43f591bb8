"""How a command other than `run` ends: with an exit code, and with a sentence if it failed."""

import contextlib
from collections.abc import Callable

from rich.console import Console

from quantization_api.failures import ExitCode
from quantizer.cli import logs
from quantizer.cli.termination import categorize, in_words, must_end


def show(console: Console, text: str) -> None:
    """Prints a failure. A closed or full standard error does not change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def guarded(action: Callable[[Console], None]) -> int:
    """Runs the action and returns the exit code; the console is for everything but its result."""
    logs.set_up(as_json=False)
    console = Console(stderr=True)
    try:
        action(console)
    except BaseException as error:
        if not must_end(error):
            raise
        known = categorize(error)
        show(console, in_words(known))
        return int(known.exit_code)
    return int(ExitCode.DONE)
