"""`quantizer run`: however it ends, it writes the termination message and returns the matching exit code."""

import argparse
import contextlib
import logging

from rich.console import Console

from quantization_api.failures import ExitCode
from quantizer.cli import logs
from quantizer.cli.ending import show
from quantizer.cli.termination import (
    Terminated,
    categorize,
    failed,
    in_words,
    leave_message,
    must_end,
    terminated_by_sigterm,
    termination_path,
)

logger = logging.getLogger(__name__)


def run_command(options: argparse.Namespace) -> int:
    """Runs the manifest of -f, or in a pod the request in the environment. No exception escapes."""
    in_pod = options.filename is None
    logs.set_up(as_json=in_pod)
    path = termination_path(in_pod)
    stopped = failed(categorize(Terminated()))
    console = Console(stderr=True)
    try:
        with terminated_by_sigterm(lambda: leave_message(stopped, path)) as stopping:
            # Imported here, so that a failing import (too little memory, a broken image) gets a category.
            from quantizer.cli.execution import execute
            from quantizer.cli.screen import summary

            outcome = execute(options, in_pod, stopping, console)
            shown = None if in_pod else summary(outcome)
    except BaseException as error:
        if not must_end(error):
            raise
        known = categorize(Terminated() if isinstance(error, KeyboardInterrupt) else error)
        result = failed(known)
        leave_message(result, path)
        if not in_pod:
            show(console, in_words(known))
        elif result.failure is not None:
            logger.error("%s: %s (%s)", known.category, result.failure.message, result.failure.hint)
        return int(known.exit_code)
    leave_message(outcome.result, path)
    with contextlib.suppress(OSError, ValueError):  # a closed standard output does not undo the artifact
        if shown is None:
            logger.info("done: %s", outcome.result.to_message())
        else:
            Console().print(shown, soft_wrap=True)
    return int(ExitCode.DONE)
