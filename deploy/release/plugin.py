"""The plugin of kubectl: one executable file, and the manifest and archive that krew installs it from.

The file is a zip archive that Python runs (`zipapp`): the plugin itself, and of the contract what it imports.
"""

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from local_cluster.images import ROOT
from quantization_api import ENGINE_VERSION

PROGRAM = "kubectl-quantization"
"""By this name on the PATH kubectl finds it, as `kubectl quantization`."""
MANIFEST = "quantization.yaml"
"""krew wants the name of the plugin."""
LICENSE = "LICENSE"
OF_THE_CONTRACT = ("__init__", "constants", "redaction", "text")
OLDEST_PYTHON = (3, 11)
_START = f"""\
import sys

if sys.version_info < {OLDEST_PYTHON}:
    sys.exit("kubectl quantization needs Python {".".join(map(str, OLDEST_PYTHON))} or newer as python3 on the PATH")
from kubectl_quantization.parser import main

sys.exit(main())
"""
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: the same sources give the same bytes."""


def sources() -> dict[str, bytes]:
    """Name in the archive -> content."""
    package = ROOT / "plugin/kubectl_quantization"
    own = {f"{package.name}/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
    contract = [f"quantization_api/{name}.py" for name in OF_THE_CONTRACT]
    return {
        **own,
        **{name: (ROOT / "crds" / name).read_bytes() for name in contract},
        "__main__.py": _START.encode(),
    }


def program() -> bytes:
    """The executable file; the same bytes for the same sources."""
    packed = io.BytesIO(b"")
    packed.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sources().items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def install(path: Path) -> None:
    """Put the program there, for its owner and all others to run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # not over one that runs
    path.write_bytes(program())
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def write(directory: Path) -> list[Path]:
    """Write the archive and the manifest for `kubectl krew install --manifest=... --archive=...`."""
    archive = directory / f"{PROGRAM}-{ENGINE_VERSION}.tar.gz"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content, mode in (
            (PROGRAM, program(), 0o755),
            (LICENSE, (ROOT / LICENSE).read_bytes(), 0o644),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    manifest = directory / MANIFEST
    manifest.write_text(yaml.safe_dump(krew(archive.name, archive.read_bytes()), sort_keys=False))
    return [archive, manifest]


def krew(archive: str, content: bytes) -> dict[str, Any]:
    """The manifest. Its uri is the archive's name: whoever publishes it puts their address before it."""
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "quantization"},
        "spec": {
            "version": f"v{ENGINE_VERSION}",
            "shortDescription": "Show and steer QuantizationJobs",
            "description": "Shows QuantizationJobs with progress bars, logs, reports, memory and GPUs; starts failed "
            "jobs again, stops jobs, and prints all that is known of one for a ticket.",
            "caveats": f"Needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer as python3 on the PATH.",
            "platforms": [
                {
                    "selector": {
                        "matchExpressions": [{"key": "os", "operator": "In", "values": ["linux", "darwin"]}]
                    },
                    "uri": archive,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "files": [{"from": name, "to": "."} for name in (PROGRAM, LICENSE)],
                    "bin": PROGRAM,
                }
            ],
        },
    }
