"""How a command that is not a run ends: an exit code, and for what went wrong a sentence."""

from collections.abc import Callable

from rich.console import Console

from quantization_api.failures import ExitCode
from quantizer import logs
from quantizer.termination import categorize


def guarded(action: Callable[[Console], None]) -> int:
    """Runs the action, with a console for what is not its result; the exit code."""
    logs.set_up(as_json=False)
    console = Console(stderr=True)
    try:
        action(console)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every ending of a command ends here
        known = categorize(error)
        console.print(f"{known.category}: {known.message}\n{known.hint}", style="red", markup=False)
        return int(known.exit_code)
    return int(ExitCode.DONE)
