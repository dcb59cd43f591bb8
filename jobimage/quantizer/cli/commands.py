"""The commands, each with what it takes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from quantization_api.constants import REQUEST_ENV
from quantizer.cli.options import PLACE, listen, machine, short_form, storage, version

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SHELLS = ("bash", "zsh")


def add_commands(commands: "Commands") -> None:
    """Adds all of them."""
    for add in (
        _quantize,
        _init,
        _run,
        _verify,
        _inspect,
        _report,
        _compare,
        _logs,
        _delete,
        _import,
        _completion,
    ):
        add(commands)


def _command(
    commands: "Commands", name: str, module: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """A command NAME, which is the function NAME_command of a module of this package."""
    command = commands.add_parser(name, help=summary, description=description)
    command.set_defaults(module=module)
    version(command)
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
    short_form(quantize)
    storage(quantize)
    machine(quantize)
    listen(quantize)


def _init(commands: "Commands") -> None:
    init = _command(
        commands,
        "init",
        "short",
        "print the manifest for a model",
        "Prints the manifest that `quantizer quantize` with the same options runs, to be edited and run with "
        "`quantizer run -f FILE` or applied to a cluster.",
    )
    short_form(init)
    storage(init)


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
    storage(run)
    machine(run)
    run.add_argument(
        "--default-calibration",
        metavar="URI",
        help="calibration text for passes without a data config (in a pod, the operator sets it)",
    )
    listen(run)


def _verify(commands: "Commands") -> None:
    verify = _command(
        commands,
        "verify",
        "look",
        "check an artifact against its manifest and load it",
        "Reads every object of an artifact, compares it with the manifest, then loads and runs the model.",
    )
    verify.add_argument("uri", metavar="URI", help=PLACE)
    storage(verify)
    machine(verify)


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
    storage(inspect)


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
    storage(report)


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
    storage(compare)


def _logs(commands: "Commands") -> None:
    logs = _command(
        commands,
        "logs",
        "look",
        "print the logs that pods kept beside an artifact",
        "Prints the end of the log of each pod that wrote to an output, as the pods kept it when they ended.",
    )
    logs.add_argument("uri", metavar="URI", help=PLACE)
    logs.add_argument("--uid", metavar="UID", help="only those of the QuantizationJob with this uid")
    storage(logs)


def _delete(commands: "Commands") -> None:
    delete = _command(
        commands,
        "delete",
        "delete",
        "remove an artifact",
        "Removes the objects that an artifact's manifest lists, the manifest itself, the state of unfinished runs and "
        "the logs of pods, and nothing else. With --recipe or --uid, only what belongs to that recipe or job.",
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
    storage(delete)
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
