"""The command line: parses the options, runs the command and returns its exit code.

A command's module is imported when the command runs: torch and transformers take seconds.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import override

from quantization_api import ENGINE_VERSION
from quantization_api.constants import MOST_PATIENCE_SECONDS, PATIENCE_SECONDS, REQUEST_ENV
from quantization_api.failures import ExitCode
from quantizer.cli.short_form import METHODS

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_Parser"]

EPILOG = """exit codes: 0 done; 64 usage; 65 data; 66 not found; 70 internal; 71 out of memory;
73 cannot create output; 75 try again; 77 access denied; 78 invalid workflow; 130 interrupted; 143 stopped by SIGTERM"""
PLACE = "s3://BUCKET/PREFIX, file:///PATH or a path"
SHELLS = ("bash", "zsh")


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
    _version(top)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_quantize, _init, _run, _verify, _inspect, _report, _compare, _delete, _import, _completion):
        add(commands)
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


def _command(commands: "Commands", name: str, module: str, summary: str, description: str) -> _Parser:
    """A command NAME, which is the function NAME_command of a module of this package."""
    command = commands.add_parser(name, help=summary, description=description)
    command.set_defaults(module=module)
    _version(command)
    return command


def _quantize(commands: "Commands") -> None:
    quantize = _command(
        commands,
        "quantize",
        "short",
        "quantize a model in one line",
        "Quantizes MODEL without a manifest; the manifest that the options stand for is printed first. Without "
        "--data the weights are rounded to nearest (rtn); with it they are rounded by gptq, which loses less.",
    )
    _short_form(quantize)
    _storage(quantize)
    _machine(quantize)
    _listen(quantize)


def _init(commands: "Commands") -> None:
    init = _command(
        commands,
        "init",
        "short",
        "print the manifest for a model",
        "Prints the manifest that `quantizer quantize` with the same options runs, to be edited and run with "
        "`quantizer run -f FILE` or applied to a cluster.",
    )
    _short_form(init)
    _storage(init)


def _run(commands: "Commands") -> None:
    run = _command(
        commands,
        "run",
        "run",
        "run a QuantizationJob",
        f"Runs the manifest FILE on this machine. Without -f, runs the request in ${REQUEST_ENV}, "
        "as the operator's pods do.",
    )
    run.add_argument("-f", "--filename", type=Path, metavar="FILE", help="manifest of a QuantizationJob")
    _storage(run)
    _machine(run)
    run.add_argument(
        "--default-calibration",
        metavar="URI",
        help="calibration text for passes without a data config (in a pod, the operator sets it)",
    )
    _listen(run)


def _verify(commands: "Commands") -> None:
    verify = _command(
        commands,
        "verify",
        "look",
        "check an artifact against its manifest and load it",
        "Reads every object of an artifact, compares it with the manifest, then loads and runs the model.",
    )
    verify.add_argument("uri", metavar="URI", help=PLACE)
    _storage(verify)
    _machine(verify)


def _inspect(commands: "Commands") -> None:
    inspect = _command(
        commands,
        "inspect",
        "look",
        "describe a model or an artifact",
        "Describes an input model (linears, group sizes that fit, revision) or an artifact.",
    )
    inspect.add_argument("uri", metavar="URI", help=PLACE)
    inspect.add_argument("--json", action="store_true", help="print JSON")
    _storage(inspect)


def _report(commands: "Commands") -> None:
    report = _command(
        commands,
        "report",
        "reporting",
        "make an artifact's report again",
        "Makes the report of an artifact - the page, and its pictures by themselves - from its manifest alone, on this "
        "machine. The artifact stays as it is.",
    )
    report.add_argument("uri", metavar="URI", help=PLACE)
    report.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: NAME-report); - prints the page",
    )
    report.add_argument("--open", action="store_true", help="show the page in the browser")
    _storage(report)


def _compare(commands: "Commands") -> None:
    compare = _command(
        commands,
        "compare",
        "reporting",
        "put artifacts side by side",
        "Compares artifacts by their manifests: method, size, metrics and readers, and says where they are not "
        "comparable. With -o, also as a page with pictures of quality against size and speed.",
    )
    compare.add_argument("uris", nargs="+", metavar="URI", help=f"two or more, each {PLACE}")
    compare.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a page (.html) to FILE")
    compare.add_argument("--open", action="store_true", help="show the page in the browser; needs -o")
    _storage(compare)


def _delete(commands: "Commands") -> None:
    delete = _command(
        commands,
        "delete",
        "delete",
        "remove an artifact",
        "Removes the objects that an artifact's manifest lists, the manifest itself and the state of "
        "unfinished runs, and nothing else. With --recipe or --uid, only what belongs to that recipe or job.",
    )
    delete.add_argument("uri", metavar="URI", help=PLACE)
    delete.add_argument(
        "--recipe", metavar="DIGEST", help="delete only an artifact of this recipe (sha256:...)"
    )
    delete.add_argument(
        "--uid",
        metavar="UID",
        help="delete only what the QuantizationJob with this uid made or left unfinished",
    )
    _storage(delete)
    delete.add_argument(
        "--refuse-link-local",
        action="store_true",
        help="refuse an endpoint with a link-local address, such as a cloud's metadata service",
    )


def _import(commands: "Commands") -> None:
    importer = _command(
        commands,
        "import",
        "import_olive",
        "turn an Olive run config into a manifest",
        "Turns a run config of Microsoft Olive (0.7 or newer, JSON or YAML) into a QuantizationJob. "
        "What computes nothing here is left out and listed; what would change the result is refused, all in one "
        "message.",
    )
    importer.add_argument("config", type=Path, metavar="FILE", help="the run config")
    importer.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of stdout")
    importer.add_argument("--output-uri", metavar="URI", help="spec.output.uri of the manifest")
    importer.add_argument("--name", metavar="NAME", help="metadata.name (default: the name of the file)")
    importer.add_argument("--model-path", metavar="URI", help="replaces input_model.model_path")
    importer.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=URI",
        help="replaces load_dataset_config.data_name of a data config; repeatable",
    )
    importer.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="FIELD",
        help="leave out a field or pass: a path such as passes.NAME.FIELD, or a name wherever it occurs; repeatable",
    )
    importer.add_argument(
        "--strict", action="store_true", help="also refuse what is left out because it computes nothing here"
    )


def _completion(commands: "Commands") -> None:
    completion = _command(
        commands,
        "completion",
        "completion",
        "print the completion of a shell",
        'Prints a script that completes commands and options. In ~/.bashrc or ~/.zshrc: eval "$(quantizer completion '
        'bash)"',
    )
    completion.add_argument("shell", choices=SHELLS)


def _short_form(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help=PLACE)
    command.add_argument(
        "-o", "--output", required=True, metavar="URI", help=f"where the artifact goes: {PLACE}"
    )
    command.add_argument("--pass", dest="method", choices=METHODS, help="default: gptq with --data, else rtn")
    command.add_argument("--bits", type=int, default=4, metavar="N", help="bits of a weight (default: 4)")
    command.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="weights that share a scale (default: the largest up to 128 that fits the model)",
    )
    command.add_argument("--data", metavar="URI", help="text to calibrate with (.txt, .jsonl, .json, .csv)")
    command.add_argument("--evaluate", metavar="URI", help="held-out text to measure the result on")


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_PATIENCE_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_PATIENCE_SECONDS}")
    return int(text)


def _version(command: argparse.ArgumentParser) -> None:
    command.add_argument("--version", action="version", version=f"quantizer {ENGINE_VERSION}")


def _storage(command: argparse.ArgumentParser) -> None:
    command.add_argument("--endpoint", metavar="URL", help="S3 server (default: the manifest's, else AWS)")
    command.add_argument("--region", metavar="NAME", help="region of the buckets")
    command.add_argument(
        "--patience",
        type=_seconds,
        metavar="SECONDS",
        help=f"how long to wait for storage that does not answer (default: the manifest's, else {PATIENCE_SECONDS})",
    )


def _machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    command.add_argument("--scratch", type=Path, metavar="DIR", help="directory for temporary files")


def _listen(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="serve /progress, /metrics and /healthz at this address (default: 0.0.0.0:8080 in a pod, else off)",
    )
