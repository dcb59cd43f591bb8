"""`quantizer run`: however it ends, it writes the termination message and returns the matching exit code."""

import argparse
import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

from quantization_api.failures import ExitCode
from quantization_api.pod import PROGRESS_PORT, RunRequest
from quantizer.cli import logs
from quantizer.cli.asked import asked_for
from quantizer.cli.ending import console, say_and_leave, sentence, show
from quantizer.cli.kept_log import KeptLog
from quantizer.cli.manifest_file import must_be_there
from quantizer.cli.signals import Stopping, stopped_by_signals
from quantizer.cli.termination import categorize, failed, leave_message, must_end, termination_path
from quantizer.progress.lines import Line
from quantizer.progress.tracker import Tracker

if TYPE_CHECKING:
    from quantizer.run.workflow import Outcome

logger = logging.getLogger(__name__)

POD_LISTEN = f"0.0.0.0:{PROGRESS_PORT}"  # inside the pod's own network namespace, where the operator polls
LISTEN_ENV = "QUANTIZATION_LISTEN"


def run_command(options: argparse.Namespace) -> int:
    """Runs the manifest of -f, or in a pod the request in the environment. No exception escapes."""
    in_pod = options.filename is None
    logs.set_up(as_json=in_pod)
    return run_to_the_end(lambda: asked_for(options), options, in_pod)


def run_to_the_end(ask: Callable[[], RunRequest], options: argparse.Namespace, in_pod: bool) -> int:
    """Runs what `ask` returns; returns the exit code and leaves the termination message."""
    path = termination_path(in_pod)
    beside = console(stderr=True)
    tracker = Tracker(say=_in_log if in_pod else functools.partial(_on_screen, beside))
    kept = KeptLog() if in_pod else None

    def ended(error: BaseException, say: Callable[[str], None]) -> int:
        known = categorize(error)
        result = failed(known)
        leave_message(result, path)
        if not in_pod:
            say(sentence(known, what_is_kept(tracker)))
        elif result.failure is not None:
            logger.error("%s: %s (%s)", known.category, result.failure.message, result.failure.hint)
        if kept is not None:
            kept.keep(known.category)
        return int(known.exit_code)

    try:
        with stopped_by_signals(lambda cause: ended(cause, say_and_leave)) as stopping:
            if options.scratch is not None:
                must_be_there(options.scratch)
            outcome, shown = _computed(ask(), options, kept, tracker, stopping, beside)
    except BaseException as error:
        if not must_end(error):
            raise
        return ended(error, lambda text: show(beside, text))
    leave_message(outcome.result, path)
    with contextlib.suppress(OSError, ValueError):  # a closed standard output does not undo the artifact
        if in_pod:
            logger.info("done: %s", outcome.result.to_message())
        else:
            console().print(shown, soft_wrap=True)
    if kept is not None:
        kept.keep()
    return int(ExitCode.DONE)


def _computed(
    request: RunRequest,
    options: argparse.Namespace,
    kept: KeptLog | None,
    tracker: Tracker,
    stopping: Stopping,
    beside: Console,
) -> tuple["Outcome", RenderableType]:
    """What the run came to, and in words. torch takes seconds to import: only for a request that was checked.

    kept: the log of a pod; None on a person's machine.
    """
    from quantizer.cli.execution import Here, execute
    from quantizer.cli.screen import progress_bar, summary

    in_pod = kept is not None
    if kept is not None:
        kept.request = request
    listen = listen_address(options.listen, in_pod)
    here = Here(options.device, options.scratch, listen, may_be_deaf=listen == POD_LISTEN)
    stopping.unwinds = True
    with contextlib.nullcontext() if in_pod else progress_bar(tracker, beside):
        outcome = execute(request, here, tracker, stopping.check)
    return outcome, "" if in_pod else summary(outcome, tracker.seconds(), request.storage.endpoint)


def _in_log(line: Line) -> None:
    logger.info("%s", line.text)


def _on_screen(beside: Console, line: Line) -> None:
    if not line.notable and beside.is_terminal:
        return
    with contextlib.suppress(OSError, ValueError):  # a closed standard error does not end the run
        beside.print(line.text, markup=False, highlight=False, soft_wrap=True)


def what_is_kept(tracker: Tracker) -> str:
    """What an interrupted run leaves, and what to do next."""
    now = tracker.snapshot()
    if now.percent == 100:
        return "The artifact was complete already; run the same command to see it."
    if tracker.kept:
        return f"{tracker.kept} of {now.layers} layers are kept; run the same command to go on."
    return "Nothing is kept; run the same command to begin again."


def listen_address(asked: str | None, in_pod: bool) -> str | None:
    """HOST:PORT of the progress server; None for none."""
    return asked or os.environ.get(LISTEN_ENV) or (POD_LISTEN if in_pod else None)
