"""Builds this project's images for the local cluster and pushes them to its registry.

An image has a key: the digest of its Containerfile, of every file that goes into it and of its base. While the key
is the same and the registry still has the image, nothing is done at all; when only our own sources changed, buildah
rebuilds the small layers at the top.
"""

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_cluster import base_image, configuration, package_index, processes
from local_cluster.containers import Containers
from local_cluster.errors import ClusterError
from local_cluster.ports import holder
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import which
from local_cluster.waiting import until

ROOT = Path(__file__).resolve().parents[3]
"""The checkout; it is the context of every build."""

_CERTIFICATES = Path("/etc/ssl/certs")
_UV_CACHE_INSIDE = "/var/cache/uv"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image: its Containerfile and the files and directories that it copies, relative to the checkout."""

    containerfile: str
    sources: tuple[str, ...]
    repository: str
    timeless: bool = False
    """All its files get one time, so that the same sources give the same digest. Its bytecode must not depend on times:
    Python would take it for that of another file, and compile again at each start."""


RECIPES: Mapping[str, Recipe] = {
    "operator": Recipe(
        "operator/Containerfile",
        (
            "requirements/installer.txt",
            "requirements/operator.txt",
            "crds/quantization_api",
            "operator/quantization_operator",
        ),
        "quantization-operator",
        timeless=True,
    ),
    "seaweedfs": Recipe(
        "deploy/local/seaweedfs/Containerfile",
        ("requirements/seaweedfs.txt",),
        "seaweedfs",
    ),
    "quantizer": Recipe(
        "jobimage/Containerfile",
        (
            "requirements/installer.txt",
            "requirements/torch.txt",
            "requirements/quantizer.txt",
            "jobimage/warm_bytecode.py",
            "crds/quantization_api",
            "jobimage/quantizer",
        ),
        "quantizer",
    ),
    "legacy": Recipe(
        "jobimage/Containerfile.legacy",
        (
            "requirements/installer.txt",
            "requirements/torch.txt",
            "requirements/legacy.txt",
            "jobimage/warm_bytecode.py",
            "crds/quantization_api",
            "jobimage/quantizer",
        ),
        "quantizer-legacy",
    ),
}
"""All images, small ones first; the two of the quantizer share their lowest layers, up to torch."""


def content_key(root: Path, recipe: Recipe, base_key: str) -> str:
    """Digest of everything that decides what the image contains."""
    digest = hashlib.sha256(f"{base_key}{' timeless' * recipe.timeless}".encode())
    for path in sorted(_files(root, (recipe.containerfile, ".dockerignore", *recipe.sources))):
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        digest.update(f"\0{path.relative_to(root)}\0{executable}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(root: Path, sources: Sequence[str]) -> Iterator[Path]:
    for source in sources:
        path = root / source
        if path.is_file():
            yield path
        else:
            yield from (
                item for item in path.rglob("*") if item.is_file() and "__pycache__" not in item.parts
            )


@dataclass(frozen=True, slots=True)
class Built:
    """What is known of an image that was pushed: the key of its content, and its name by digest."""

    key: str
    reference: str


def built(settings: Settings, name: str) -> Built | None:
    """The image of this name that was pushed last; None before the first time."""
    try:
        return Built(**json.loads(_record(settings, name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _record(settings: Settings, name: str) -> Path:
    return settings.state / "images" / f"{name}.json"


def ensure(settings: Settings, names: Sequence[str], progress: Progress) -> dict[str, str]:
    """Build and push the named images as far as their content changed, and return their names by digest.

    Raises:
        ClusterError: a build or a push failed, or it is not run as root.
    """
    base = base_image.choose()
    keys = {name: content_key(ROOT, RECIPES[name], base.key) for name in names}
    with registry(settings):
        fresh = {
            name: image.reference
            for name in names
            if (image := built(settings, name)) and image.key == keys[name]
        }
        fresh = {name: reference for name, reference in fresh.items() if _is_stored(settings, reference)}
        stale = [name for name in names if name not in fresh]
        if stale:
            if os.geteuid() != 0:
                raise ClusterError("images are built by root: container storage with overlay mounts needs it")
            with _exclusive(settings.state / "images.lock", progress):
                containers = Containers(settings)
                base_image.ensure(settings, containers, base, progress)
                for name in stale:
                    reference = _build(settings, containers, name, keys[name], base, progress)
                    _remember(settings, name, Built(keys[name], reference))
                    fresh[name] = reference
                containers.remove_unused()
    return {name: fresh[name] for name in names}


def _build(
    settings: Settings,
    containers: Containers,
    name: str,
    key: str,
    base: base_image.BaseImage,
    progress: Progress,
) -> str:
    recipe = RECIPES[name]
    local = f"localhost/{recipe.repository}:dev"
    destination = f"{settings.registry}/{recipe.repository}"
    with build_options(settings, recipe, base) as options:
        label = f"Building the image {recipe.repository}"
        with progress.step(label) as update:
            containers.build(
                local,
                ROOT / recipe.containerfile,
                ROOT,
                options,
                lambda line: update(f"{label}: {_step(line)}") if "STEP" in line else None,
            )
    with progress.step(f"Pushing {destination}", quiet_below=1.0):
        digest = containers.push(local, f"{destination}:{key}")
    return f"{destination}@{digest}"


@contextmanager
def build_options(settings: Settings, recipe: Recipe, base: base_image.BaseImage) -> Iterator[list[str]]:
    """Options of buildah for an image: its base, and the way to the packages, which is not kept in the image."""
    index = package_index.of_this_machine()
    with tempfile.TemporaryDirectory(prefix="index.", dir=settings.state) as directory:
        for file, text in (("pip.conf", index.pip_conf()), ("uv.toml", index.uv_toml())):
            path = Path(directory) / file
            path.touch(mode=0o600)  # an index address may carry a password
            path.write_text(text)
        yield [
            f"--build-arg=BASE_IMAGE={base.name}",
            f"--build-arg=UV_CACHE_DIR={_UV_CACHE_INSIDE}",
            f"--volume={_uv_cache()}:{_UV_CACHE_INSIDE}",
            *(f"--secret=id={file},src={directory}/{file}" for file in ("pip.conf", "uv.toml")),
            # The build trusts what this machine trusts, also a company's own certificate authority.
            *([f"--volume={_CERTIFICATES}:{_CERTIFICATES}:ro"] if _CERTIFICATES.is_dir() else []),
            *(["--timestamp=0"] if recipe.timeless else []),
        ]


def _uv_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """uv's cache on this machine: nothing is downloaded twice."""
    default = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    path = Path(environ.get("UV_CACHE_DIR") or default)
    path.mkdir(parents=True, exist_ok=True)
    return path.absolute()


def _step(line: str) -> str:
    """The part of buildah's line that says what is done, cut to a screen's width."""
    return line.partition("STEP ")[2][:70]


def _remember(settings: Settings, name: str, image: Built) -> None:
    path = _record(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps({"key": image.key, "reference": image.reference}))
    path.with_suffix(".new").replace(path)


@contextmanager
def registry(settings: Settings) -> Iterator[None]:
    """Have the cluster's registry running inside the block; it is stopped afterwards only if it was started here.

    Raises:
        ClusterError: docker-registry is not installed, somebody else holds its port, or it does not become ready.
    """
    if _answers(settings) and processes.running(settings, "registry"):
        yield
        return
    other = holder("127.0.0.1", settings.registry_port)
    if other:
        raise ClusterError(
            f"port {settings.registry_port} of 127.0.0.1 is held by {other}; "
            "stop it, or choose another by QUANTIZATION_REGISTRY_PORT"
        )
    start_registry(settings)
    try:
        yield
    finally:
        processes.stop(settings, ["registry"])


def start_registry(settings: Settings) -> None:
    """Start the registry just as `up` does, so that `up` finds it running, and wait until it answers."""
    program = which("docker-registry")
    if not program:
        raise ClusterError("docker-registry is not installed; `python -m local_cluster packages` installs it")
    config = settings.config / "registry.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    text = configuration.registry(settings)
    config.write_text(text)
    processes.start(settings, processes.Server("registry", (str(program), "serve", str(config)), text))
    until(lambda: _answers(settings), f"the registry; its log is {settings.logs}/registry.log", 20)


def _answers(settings: Settings) -> bool:
    return _status(settings, "/v2/") == 200


def _is_stored(settings: Settings, reference: str) -> bool:
    repository, _, digest = reference.partition("/")[2].partition("@")
    return _status(settings, f"/v2/{repository}/manifests/{digest}") == 200


def compressed_size(settings: Settings, reference: str) -> int:
    """Bytes that a node pulls for an image that is in the registry, which must be running: its layers, compressed.

    Raises:
        ClusterError: the registry does not have it.
    """
    repository, _, digest = reference.partition("/")[2].partition("@")
    answer = _ask(settings, "GET", f"/v2/{repository}/manifests/{digest}")
    if answer is None or answer[0] != 200:
        raise ClusterError(f"the registry does not show {reference}; its log is {settings.logs}/registry.log")
    manifest = json.loads(answer[1])
    return sum(int(part["size"]) for part in (manifest["config"], *manifest["layers"]))


def _status(settings: Settings, path: str) -> int | None:
    answer = _ask(settings, "HEAD", path)
    return None if answer is None else answer[0]


def _ask(settings: Settings, method: str, path: str) -> tuple[int, bytes] | None:
    """Code and body of the registry's answer; None without one."""
    connection = http.client.HTTPConnection("127.0.0.1", settings.registry_port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None


@contextmanager
def _exclusive(path: Path, progress: Progress) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Waiting for another build of images"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `images` to the command line."""
    parser = subparsers.add_parser("images", help="build the images and push them to the cluster's registry")
    parser.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(RECIPES)}; all by default")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    unknown = [name for name in arguments.names if name not in RECIPES]
    if unknown:
        raise ClusterError(f"there is no image {unknown[0]!r}; there are {', '.join(RECIPES)}")
    settings = Settings.from_environment()
    references = ensure(settings, arguments.names or list(RECIPES), Progress())
    with registry(settings):
        for reference in references.values():
            print(f"{reference}  {compressed_size(settings, reference) / 1e6:,.0f} MB compressed")
    return 0
