"""Obtains the servers: from a directory that the user names, else from the cache, else by building them once.

The versions are those of `deploy/local/go/go.mod` and, for what only some tests and reports need, of a module of its
own below `deploy/local/peers`. The cache's key covers everything that goes into the build, so a change of a version,
of a build flag or of our own sources makes a new set and never reuses an old one.
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

PEERS: Mapping[str, str] = {
    "jobset": "sigs.k8s.io/jobset",
    "kueue": "sigs.k8s.io/kueue/cmd/kueue",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
    "helm": "helm.sh/helm/v4/cmd/helm",
}
"""What else meets the operator in a cluster, or installs it. Each is a module, since their dependencies disagree."""

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


def linker_flags(version: str | None) -> str:
    """Stamp the version of Kubernetes: without it a server calls itself v0.0.0-master, which clients cannot compare."""
    if version is None:
        return "-s -w"
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
    for text in (*_BUILD_FLAGS, linker_flags(_stamp(sources)), os.uname().machine):
        digest.update(text.encode() + b"\0")
    for path in sorted([sources / "go.mod", sources / "go.sum", *sources.glob("*/*.go")]):
        digest.update(path.relative_to(sources).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_directory(settings: Settings, name: str) -> Path:
    """Where the binary of this name, built from the present sources, is or will be."""
    return settings.cache / "bin" / cache_key(_sources(settings, name))


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
    for sources in {_sources(settings, name): None for name in missing}:
        part = [name for name in missing if _sources(settings, name) == sources]
        found |= _build_once(settings, progress, part, sources)
    return found


def _build_once(
    settings: Settings, progress: Progress, names: Sequence[str], sources: Path
) -> dict[str, Path]:
    cached = cache_directory(settings, names[0])
    cached.mkdir(parents=True, exist_ok=True)
    with _exclusive(cached / ".lock", progress):
        found = _present(settings, names)  # another process may have built them while this one waited
        missing = [name for name in names if name not in found]
        if missing:
            if settings.bin_dir:
                progress.say(
                    f"{settings.bin_dir} has no {', '.join(missing)}: building {'it' if len(missing) == 1 else 'them'}"
                )
            _build(settings, progress, missing, sources, cached)
    return found | {name: cached / name for name in missing}


def _sources(settings: Settings, name: str) -> Path:
    return settings.go_sources if name in PACKAGES else settings.go_sources.parent / "peers" / name


def _stamp(sources: Path) -> str | None:
    """The version that the module's programs are stamped with; None: they are no servers of Kubernetes."""
    text = (sources / "go.mod").read_text()
    return None if sources.parent.name == "peers" else kubernetes_version(text)


def _present(settings: Settings, names: Sequence[str]) -> dict[str, Path]:
    if settings.bin_dir and not settings.bin_dir.is_dir():
        raise ClusterError(
            f"{settings.bin_dir} is not a directory; --bin-dir names one with the servers' binaries"
        )
    found = {}
    for name in names:
        directories = [cache_directory(settings, name)]
        if settings.bin_dir:
            directories.insert(0, settings.bin_dir)
        for directory in directories:
            if os.access(directory / name, os.X_OK):
                found[name] = directory / name
                break
    return found


@contextmanager
def _exclusive(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Waiting for another build of the same binaries"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(settings: Settings, progress: Progress, names: Sequence[str], sources: Path, target: Path) -> None:
    go = find_go(settings, progress)
    packages = [{**PACKAGES, **PEERS}[name] for name in names]
    if len(names) > 2:
        progress.say(
            "Building the Kubernetes servers once (about 10 minutes on 2 cores; the cache keeps them)"
        )
    with progress.step("Downloading Go modules") as update:
        total = len(
            _go(
                [go, "list", "-mod=readonly", "-deps", *packages],
                sources,
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
                linker_flags(_stamp(sources)),
                "-o",
                f"{temporary}/",
                *packages,
            ]
            _go(command, sources, update, label, total)
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
    sources: Path,
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
            cwd=sources,
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
