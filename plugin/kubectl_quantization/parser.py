"""The command line: parses the options, runs the command and returns its exit code."""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kubectl_quantization.cluster import Cluster, PluginError
from quantization_api import ENGINE_VERSION

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PROGRAM = "kubectl quantization"
EPILOG = """exit codes: 0 done; 1 not done, or with --watch: a job failed; 2 usage; 130 interrupted
The cluster is that of your kubeconfig, and the rights are yours: the role edit of a namespace is enough."""
PASSED_ON = ("context", "kubeconfig", "cluster", "user", "as", "request_timeout")
"""Options of kubectl that every call of it gets."""


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Shows and steers QuantizationJobs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {ENGINE_VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_status, _submit, _logs, _report, _retry, _cancel, _resume, _top, _diagnose):
        add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it as it ends kubectl
    options = parser().parse_args(arguments)
    module = importlib.import_module(f"kubectl_quantization.{options.module}")
    command: Callable[[Cluster, argparse.Namespace], int] = getattr(module, f"{options.command}_command")
    given = {name: getattr(options, name) for name in PASSED_ON}
    passed = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value]
    try:
        return command(Cluster(tuple(passed), options.namespace), options)
    except PluginError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _command(
    commands: "Commands", name: str, module: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """A command NAME, which is the function NAME_command of a module of this package."""
    command = commands.add_parser(name, help=summary, description=description)
    command.set_defaults(module=module)
    command.add_argument("-n", "--namespace", default="", metavar="NAME", help="default: that of the context")
    place = command.add_argument_group("which cluster, as kubectl takes it")
    for option in PASSED_ON:
        place.add_argument(f"--{option.replace('_', '-')}", metavar="VALUE", help=argparse.SUPPRESS)
    place.description = ", ".join(f"--{option.replace('_', '-')}" for option in PASSED_ON)
    return command


def _of_one_job(
    commands: "Commands", name: str, module: str, summary: str, description: str
) -> argparse.ArgumentParser:
    command = _command(commands, name, module, summary, description)
    command.add_argument("name", metavar="NAME", help="of the QuantizationJob")
    return command


def _status(commands: "Commands") -> None:
    status = _command(
        commands,
        "status",
        "following",
        "show jobs and how far they are",
        "Shows jobs with their phase, a progress bar, and what each does, waits for or failed of.",
    )
    status.add_argument(
        "names", nargs="*", metavar="NAME", help="jobs to show (default: all of the namespace)"
    )
    status.add_argument("-w", "--watch", action="store_true", help="go on until all of them have ended")
    status.add_argument("-l", "--selector", default="", metavar="LABELS", help="only jobs with these labels")
    _everywhere(status)


def _submit(commands: "Commands") -> None:
    submit = _command(
        commands,
        "submit",
        "steering",
        "apply the jobs of a file",
        "Applies a file as `kubectl apply` does, and refuses fields that the cluster does not know.",
    )
    submit.add_argument("filename", metavar="FILE", help="a manifest; - reads standard input")
    submit.add_argument("-w", "--watch", action="store_true", help="then show the jobs until they have ended")
    submit.add_argument(
        "--dry-run", action="store_true", help="let the API server check the file, and store nothing"
    )


def _logs(commands: "Commands") -> None:
    logs = _of_one_job(
        commands,
        "logs",
        "logs",
        "show the log of a job's pod",
        "Shows the log of the pod that runs, that failed, or that was there last. Failed pods "
        "stay until their job is retried, suspended or deleted; where none is left, a short-lived pod with the storage "
        "account of the job reads what was kept of the log.",
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the pod ends")
    logs.add_argument("--tail", type=int, metavar="N", help="only the last N lines")
    logs.add_argument("--pod", metavar="POD", help="of this pod of the job")


def _report(commands: "Commands") -> None:
    report = _of_one_job(
        commands,
        "report",
        "report",
        "save the report of a job's artifact",
        "Saves the page of an artifact. A short-lived pod with the storage account of the job makes it from the "
        "artifact's manifest, so this machine needs no access to the storage.",
    )
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: NAME-report.html")
    report.add_argument("--open", action="store_true", help="show the page in the browser")


def _retry(commands: "Commands") -> None:
    _of_one_job(
        commands,
        "retry",
        "steering",
        "start a failed job again",
        "Starts a failed job again, without a change of it, from the layers that are saved.",
    )


def _cancel(commands: "Commands") -> None:
    cancel = _of_one_job(
        commands,
        "cancel",
        "steering",
        "stop a job",
        "Stops a job (spec.suspend). It keeps the layers that are finished, and `resume` lets it go on.",
    )
    cancel.add_argument(
        "--delete",
        action="store_true",
        help="delete the object; its artifact goes if artifactPolicy is Delete",
    )


def _resume(commands: "Commands") -> None:
    _of_one_job(
        commands, "resume", "steering", "let a cancelled job go on", "Lets a job go on that `cancel` stopped."
    )


def _top(commands: "Commands") -> None:
    top = _command(
        commands,
        "top",
        "top",
        "show the memory and the GPUs of running jobs",
        "Shows what running pods say of themselves: stage, time, and the most memory that they have needed so far, "
        "beside their limits.",
    )
    top.add_argument("name", nargs="?", metavar="NAME", help="only the pods of this job")
    _everywhere(top)


def _diagnose(commands: "Commands") -> None:
    _of_one_job(
        commands,
        "diagnose",
        "diagnose",
        "print all that is known of a job, for a ticket",
        "Prints versions, the object, its Job, pods and events, the end of the log and what the operator says of it. "
        "What looks like a secret is hidden; read the text before you paste it.",
    )


def _everywhere(command: argparse.ArgumentParser) -> None:
    command.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
