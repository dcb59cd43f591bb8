"""Obtains the servers: from a directory that the user names, else from the cache, else by building them once.

The versions are those of `deploy/local/go/go.mod`; the cache's key covers everything that goes into the build, so a
change of a version, of a build flag or of our own sources makes a new set and never reuses an old one.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.toolchain import find_go

PACKAGES: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "coredns": "./coredns",
    "pause": "./pause",
}
"""Every server and the Go package it is built from."""

_BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
_BUILD_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def kubernetes_version(go_mod: str) -> str:
    """Read the version of Kubernetes, such as `v1.36.3`, from a go.mod.

    Raises:
        ClusterError: the file does not require k8s.io/kubernetes.
    """
    found = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ClusterError("the servers' go.mod does not require k8s.io/kubernetes")
    return found.group(1)


def linker_flags(version: str) -> str:
    """Stamp the version: without it a server calls itself v0.0.0-master, which clients cannot compare."""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    base = "k8s.io/component-base/version"
    stamps = {
        f"{base}.gitVersion": version,
        f"{base}.gitMajor": major,
        f"{base}.gitMinor": minor,
        f"{base}.gitTreeState": "clean",
        f"{base}.gitCommit": "0",
        "k8s.io/client-go/pkg/version.gitVersion": version,
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in stamps.items())])


def cache_key(sources: Path) -> str:
    """Digest of all that decides what is built: the module's files, the flags and the architecture."""
    digest = hashlib.sha256()
    version = kubernetes_version((sources / "go.mod").read_text())
    for text in (*_BUILD_FLAGS, linker_flags(version), os.uname().machine):
        digest.update(text.encode() + b"\0")
    for path in sorted([sources / "go.mod", sources / "go.sum", *sources.glob("*/*.go")]):
        digest.update(path.relative_to(sources).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_directory(settings: Settings) -> Path:
    """Where binaries built from the present sources are, or will be."""
    return settings.cache / "bin" / cache_key(settings.go_sources)


def obtain(settings: Settings, progress: Progress, names: Iterable[str] = tuple(PACKAGES)) -> dict[str, Path]:
    """Return the path of each named server, building those that are neither in the user's directory nor in the cache.

    Raises:
        ClusterError: the named directory does not exist, or the build failed.
    """
    wanted = list(names)
    found = _present(settings, wanted)
    missing = [name for name in wanted if name not in found]
    if not missing:
        return found
    cached = cache_directory(settings)
    cached.mkdir(parents=True, exist_ok=True)
    with _exclusive(cached / ".lock", progress):
        found = _present(settings, wanted)  # another process may have built them while this one waited
        missing = [name for name in wanted if name not in found]
        if missing:
            if settings.bin_dir:
                progress.say(
                    f"{settings.bin_dir} has no {', '.join(missing)}: building {'it' if len(missing) == 1 else 'them'}"
                )
            _build(settings, progress, missing, cached)
    return found | {name: cached / name for name in missing}


def _present(settings: Settings, names: Sequence[str]) -> dict[str, Path]:
    directories = [cache_directory(settings)]
    if settings.bin_dir:
        if not settings.bin_dir.is_dir():
            raise ClusterError(
                f"{settings.bin_dir} is not a directory; --bin-dir names one with the servers' binaries"
            )
        directories.insert(0, settings.bin_dir)
    return {
        name: directory / name
        for directory in reversed(directories)
        for name in names
        if os.access(directory / name, os.X_OK)
    }


@contextmanager
def _exclusive(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Waiting for another build of the same binaries"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(settings: Settings, progress: Progress, names: Sequence[str], target: Path) -> None:
    go = find_go(settings, progress)
    packages = [PACKAGES[name] for name in names]
    version = kubernetes_version((settings.go_sources / "go.mod").read_text())
    if len(names) > 2:
        progress.say(
            "Building the Kubernetes servers once (about 10 minutes on 2 cores; the cache keeps them)"
        )
    with progress.step("Downloading Go modules") as update:
        total = len(
            _go(
                [go, "list", "-mod=readonly", "-deps", *packages],
                settings,
                update,
                "Downloading Go modules",
                None,
            )
        )
    temporary = Path(tempfile.mkdtemp(prefix="build.", dir=target))
    label = f"Compiling {', '.join(names)}"
    try:
        with progress.step(label) as update:
            command: list[str | Path] = [
                go,
                "build",
                *_BUILD_FLAGS,
                "-v",
                "-ldflags",
                linker_flags(version),
                "-o",
                f"{temporary}/",
                *packages,
            ]
            _go(command, settings, update, label, total)
        for name, package in zip(names, packages, strict=True):
            _built_path(temporary, package).replace(target / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _built_path(directory: Path, package: str) -> Path:
    """The file that `go build -o DIR/` writes: named after the last element of the path that is not a major version."""
    elements = [element for element in package.split("/") if not re.fullmatch(r"v\d+", element)]
    return directory / elements[-1]


def _go(
    command: Sequence[str | Path],
    settings: Settings,
    update: Callable[[str], None],
    label: str,
    total: int | None,
) -> list[str]:
    """Run go, count the lines it reports on standard error as progress, and return its output's lines.

    Raises:
        ClusterError: it failed; the message carries the end of what it said.
    """
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            [str(word) for word in command],
            cwd=settings.go_sources,
            env={**os.environ, **_BUILD_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        said: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip())
            update(f"{label}: {len(said)}" + (f" of at most {total} packages" if total else ""))
        process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    if process.returncode != 0:
        tail = "\n".join(said[-15:])
        raise ClusterError(f"`go {command[1]}` failed; the servers' binaries were not built:\n{tail}")
    return lines
