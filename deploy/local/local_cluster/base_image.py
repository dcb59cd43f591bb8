"""Makes the image that the local cluster's images stand on: Debian with Python, without any image registry.

Elsewhere the Containerfiles' default, an official Python image, is used. A local cluster does not need to reach any
public image registry, so this base is put together by mmdebstrap from the Debian archive.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster.containers import Containers
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import run

_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_VERSION = "1"
"""Changed by hand when the base has to be made anew for another reason, such as security updates."""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What the Containerfiles get as BASE_IMAGE: a name, and a key that changes with its content."""

    name: str
    key: str


def key() -> str:
    """Digest of everything that decides the content of the base."""
    words = (_SUITE, *_PACKAGES, *_LEFT_OUT, _VERSION, os.uname().machine)
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def choose(environ: Mapping[str, str] = os.environ) -> BaseImage:
    """The image that QUANTIZATION_BASE_IMAGE names, else the one that `ensure` makes."""
    named = environ.get("QUANTIZATION_BASE_IMAGE", "")
    if named:
        return BaseImage(named, hashlib.sha256(named.encode()).hexdigest()[:16])
    return BaseImage(f"localhost/base:{key()}", key())


def ensure(settings: Settings, containers: Containers, base: BaseImage, progress: Progress) -> None:
    """Have the base in the image storage: there already, or from the cached archive, or made from Debian packages.

    The archive stays in the cache directory, where `down --wipe` leaves it.

    Raises:
        ClusterError: the packages could not be fetched, or mmdebstrap is not installed.
    """
    if base.name != f"localhost/base:{base.key}" or containers.has(base.name):
        return  # one that the user names is fetched by buildah itself
    directory = settings.cache / "base" / base.key
    archive = directory / "base.tar"
    if not archive.exists():
        _make(archive, progress)
    containerfile = directory / "Containerfile"
    containerfile.write_text('FROM scratch\nADD base.tar /\nCMD ["python3"]\n')
    with progress.step("Importing the base image"):
        containers.build(base.name, containerfile, directory, ["--timestamp", "0"])


def _make(archive: Path, progress: Progress, environ: Mapping[str, str] = os.environ) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".new.tar")
    mirror = environ.get("QUANTIZATION_DEBIAN_MIRROR", "")
    with progress.step(f"Making the base image from Debian {_SUITE} packages (once, half a minute)"):
        run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(_PACKAGES)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
            _SUITE,
            unfinished,
            *([mirror] if mirror else []),
            env={"SOURCE_DATE_EPOCH": "0"},
            timeout=1200,
        )
    unfinished.replace(archive)
