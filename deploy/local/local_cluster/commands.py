"""The cluster's own commands: up, down, status, kubeconfig, env, binaries, doctor, packages."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from local_cluster import cluster, machine, packages, teardown
from local_cluster.binaries import PACKAGES, PEERS, obtain
from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.settings import Settings


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the cluster's commands to the command line."""
    directory = argparse.ArgumentParser(add_help=False)
    help_text = "directory with the servers' binaries; what it lacks comes from the cache, or is built"
    directory.add_argument("--bin-dir", type=Path, help=help_text)
    up = subparsers.add_parser(
        "up", parents=[directory], help="start the cluster, or what of it does not run"
    )
    up.add_argument("--gpus", type=_count, help="GPUs that the node pretends to have (remembered; 0: none)")
    up.set_defaults(run=_up)
    down = subparsers.add_parser("down", help="stop the cluster and leave no trace; its state stays")
    down.add_argument(
        "--wipe", action="store_true", help="remove the state too (objects, images); binaries stay"
    )
    down.set_defaults(run=_down)
    texts = {
        "status": (_status, "show what runs; exit code 1 when something does not"),
        "kubeconfig": (_kubeconfig, "print the path of the administrator's kubeconfig"),
        "env": (_env, 'print what a shell needs: eval "$(python -m local_cluster env)"'),
        "doctor": (_doctor, "say what this machine lacks"),
    }
    for name, (function, text) in texts.items():
        subparsers.add_parser(name, help=text).set_defaults(run=function)
    needed = subparsers.add_parser(
        "packages", help="install the missing Debian packages, without starting their services"
    )
    needed.add_argument(
        "--browser", action="store_true", help="the browser of the tests, and not what the cluster needs"
    )
    needed.set_defaults(run=_packages)
    build = subparsers.add_parser(
        "binaries", parents=[directory], help="build the servers, unless they are there"
    )
    build.add_argument(
        "names", nargs="*", type=_program, default=list(PACKAGES), help="these and no others", metavar="NAME"
    )
    build.set_defaults(run=_binaries)


def _program(text: str) -> str:
    if text not in (names := {**PACKAGES, **PEERS}):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1024")
    return int(text)


def _up(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment(bin_dir=arguments.bin_dir)
    progress = Progress()
    with cluster.exclusive(settings, progress):
        cluster.up(settings, progress, arguments.gpus)
    progress.say(f"The cluster is up; its registry is {settings.registry}. The kubeconfig:")
    print(settings.kubeconfig)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    progress = Progress()
    if os.geteuid() != 0:
        raise ClusterError("the cluster was started by root, so only root can stop it")
    with cluster.exclusive(settings, progress):
        teardown.down(settings, progress, wipe=arguments.wipe)
    return 0


def _status(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    found = cluster.status(settings)
    table = Table("server", "process", "memory", box=None, pad_edge=False)
    for server in found:
        memory = f"{server.memory_bytes / 2**20:.0f} MiB" if server.pid else ""
        table.add_row(server.name, str(server.pid or "not running"), memory)
    console = Console(highlight=False)
    console.print(table)
    complete = all(server.pid for server in found)
    if not complete:
        console.print(
            "The cluster is not up: `python -m local_cluster up` starts what is missing.", markup=False
        )
        return 1
    ready = cluster.node_ready(settings)
    console.print(f"node {settings.node_name}: {'Ready' if ready else 'not ready'}")
    console.print(f"registry: {settings.registry}\nkubeconfig: {settings.kubeconfig}\nlogs: {settings.logs}")
    return 0 if ready else 1


def _kubeconfig(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if not settings.kubeconfig.exists():
        raise ClusterError("there is no kubeconfig yet: `python -m local_cluster up` makes it")
    print(settings.kubeconfig)
    return 0


def _env(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    directory = cluster.kubectl_for(settings).program.parent
    print(f"export KUBECONFIG={shlex.quote(str(settings.kubeconfig))}")
    print(f'export PATH={shlex.quote(str(directory))}:"$PATH"')
    return 0


def _binaries(arguments: argparse.Namespace) -> int:
    found = obtain(Settings.from_environment(bin_dir=arguments.bin_dir), Progress(), arguments.names)
    for path in found.values():
        print(path)
    return 0


def _doctor(_: argparse.Namespace) -> int:
    checks = machine.examine(Settings.from_environment())
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row("[green]ok[/]" if check.passed else "[red]no[/]", check.name, check.sentence)
    Console(highlight=False).print(table)
    return 0 if all(check.passed for check in checks) else 1


def _packages(arguments: argparse.Namespace) -> int:
    programs = (
        machine.BROWSER_PROGRAMS if arguments.browser else {**machine.PROGRAMS, **machine.IMAGE_PROGRAMS}
    )
    installed = packages.install(Progress(), programs)
    print(f"installed: {', '.join(installed)}" if installed else "all packages are there")
    return 0
