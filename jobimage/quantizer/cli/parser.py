"""The command line: parses the options, runs the command and returns its exit code."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from quantization_api import ENGINE_VERSION
from quantization_api.failures import ExitCode
from quantization_api.pod import REQUEST_ENV
from quantization_api.spec import MOST_PATIENCE_SECONDS, PATIENCE_SECONDS

EPILOG = """exit codes: 0 done; 64 usage; 65 data; 66 not found; 70 internal; 71 out of memory;
73 cannot create output; 75 try again; 77 access denied; 78 invalid workflow; 143 stopped by SIGTERM"""


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
    top.add_argument("--version", action="version", version=f"quantizer {ENGINE_VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser(
        "run",
        help="run a QuantizationJob",
        description=f"Runs the manifest FILE on this machine. Without -f, runs the request in ${REQUEST_ENV}, "
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
    run.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="serve /progress, /metrics and /healthz at this address (default: 0.0.0.0:8080 in a pod, else off)",
    )

    verify = commands.add_parser(
        "verify",
        help="check an artifact against its manifest and load it",
        description="Reads every object of an artifact, compares it with the manifest, then loads and runs "
        "the model.",
    )
    verify.add_argument("uri", metavar="URI", help="s3://BUCKET/PREFIX, file:///PATH or a path")
    _storage(verify)
    _machine(verify)

    inspect = commands.add_parser(
        "inspect",
        help="describe a model or an artifact",
        description="Describes an input model (linears, group sizes that fit, revision) or an artifact.",
    )
    inspect.add_argument("uri", metavar="URI", help="s3://BUCKET/PREFIX, file:///PATH or a path")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    _storage(inspect)

    delete = commands.add_parser(
        "delete",
        help="remove an artifact",
        description="Removes the objects that an artifact's manifest lists, the manifest itself and the state of "
        "unfinished runs, and nothing else. With --recipe or --uid, only what belongs to that recipe or job.",
    )
    delete.add_argument("uri", metavar="URI", help="s3://BUCKET/PREFIX, file:///PATH or a path")
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
        "--patience",
        type=_seconds,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for storage that does not answer (default: {PATIENCE_SECONDS})",
    )
    delete.add_argument(
        "--refuse-link-local",
        action="store_true",
        help="refuse an endpoint with a link-local address, such as a cloud's metadata service",
    )

    importer = commands.add_parser(
        "import",
        help="turn an Olive run config into a manifest",
        description="Turns a run config of Microsoft Olive (0.7 or newer, JSON or YAML) into a QuantizationJob. "
        "Fields with no equivalent are refused by name, never dropped.",
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
        help="leave out this field wherever it occurs; repeatable",
    )
    return top


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_PATIENCE_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_PATIENCE_SECONDS}")
    return int(text)


def _storage(command: argparse.ArgumentParser) -> None:
    command.add_argument("--endpoint", metavar="URL", help="S3 server (default: the manifest's, else AWS)")
    command.add_argument("--region", metavar="NAME", help="region of the buckets")


def _machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    command.add_argument("--scratch", type=Path, metavar="DIR", help="directory for temporary files")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    options = parser().parse_args(arguments)
    # torch and transformers take seconds to import: only for the commands that compute
    if options.command == "import":
        from quantizer.cli.import_olive import import_command

        return import_command(options)
    if options.command == "run":
        if options.filename is None and REQUEST_ENV not in os.environ:
            parser().error(f"run needs -f FILE, or a request in the environment variable {REQUEST_ENV}")
        from quantizer.cli.run import run_command

        return run_command(options)
    if options.command == "delete":
        from quantizer.cli.delete import delete_command

        return delete_command(options)
    from quantizer.cli.look import inspect_command, verify_command

    return verify_command(options) if options.command == "verify" else inspect_command(options)
