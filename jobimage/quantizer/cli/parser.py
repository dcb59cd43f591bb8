"""The command line: parses the options, runs the command and returns its exit code.

A command's module is imported when the command runs: torch and transformers take seconds.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from typing_extensions import override

from quantization_api.constants import REQUEST_ENV
from quantization_api.failures import ExitCode
from quantizer.cli.commands import add_commands
from quantizer.cli.options import version

EPILOG = """exit codes: 0 done; 64 usage; 65 data; 66 not found; 70 internal; 71 out of memory;
73 cannot create output; 75 try again; 77 access denied; 78 invalid workflow; 130 interrupted; 143 stopped by SIGTERM"""


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = _Parser(
        prog="quantizer",
        description="Quantizes language models into verified artifacts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version(top)
    add_commands(top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parser().parse_args(arguments)
    if options.command == "run" and options.filename is None and REQUEST_ENV not in os.environ:
        parser().error(f"run needs -f FILE, or a request in the environment variable {REQUEST_ENV}")
    if options.command == "compare" and len(options.uris) < 2:
        parser().error("compare needs two artifacts at least")
    if options.command == "report" and options.open and str(options.output) == "-":
        parser().error("report --open needs a page to show; leave out -o -")
    if options.command == "compare" and options.open and options.output is None:
        parser().error("compare --open needs -o FILE, the page to show")
    command: Callable[[argparse.Namespace], int] = getattr(
        importlib.import_module(f"quantizer.cli.{options.module}"), f"{options.command}_command"
    )
    return command(options)
