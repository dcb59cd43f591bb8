"""`quantizer run`: however it ends, the result is left where it belongs and the exit code says what it was."""

import argparse
import logging

from rich.console import Console

from quantization_api.failures import ExitCode
from quantizer import logs
from quantizer.termination import (
    Terminated,
    categorize,
    failed,
    leave_message,
    terminated_by_sigterm,
    termination_path,
)

logger = logging.getLogger(__name__)


def run_command(options: argparse.Namespace) -> int:
    """Runs the manifest of -f, or as a pod the request in the environment. Nothing escapes."""
    in_pod = options.filename is None
    logs.set_up(as_json=in_pod)
    path = termination_path(in_pod)
    stopped = failed(categorize(Terminated()))
    console = Console(stderr=True)
    try:
        with terminated_by_sigterm(lambda: leave_message(stopped, path)) as stopping:
            # Imported in here, where an import that fails (too little memory, a broken image) is categorized.
            from quantizer.cli_screen import summary
            from quantizer.execution import execute

            outcome = execute(options, in_pod, stopping, console)
            shown = None if in_pod else summary(outcome)
    except (Exception, KeyboardInterrupt, Terminated) as error:  # noqa: BLE001 - every ending of a run ends here
        known = categorize(Terminated() if isinstance(error, KeyboardInterrupt) else error)
        leave_message(failed(known), path)
        if in_pod:
            logger.error("%s: %s (%s)", known.category, known.message, known.hint)
        else:
            console.print(f"{known.category}: {known.message}\n{known.hint}", style="red", markup=False)
        return int(known.exit_code)
    leave_message(outcome.result, path)
    if shown is None:
        logger.info("done: %s", outcome.result.to_message())
    else:
        Console().print(shown, soft_wrap=True)
    return int(ExitCode.DONE)
