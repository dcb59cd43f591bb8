"""Packs one static program as a container image, without any base image and without any builder."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture(machine: str | None = None) -> str:
    """The name that images use for this machine's processor."""
    machine = machine or os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def write_archive(target: Path, reference: str, program: Path) -> None:
    """Write an archive, as `docker save` would, of an image that holds `program` as /NAME and runs it as user 65532.

    The same program gives the same bytes, whenever and wherever it is packed.
    """
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    layer_digest = hashlib.sha256(layer).hexdigest()
    configuration = json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65532:65532"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        }
    ).encode()
    configuration_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    layer_name = f"{layer_digest}/layer.tar"
    manifest = [{"Config": configuration_name, "RepoTags": [reference], "Layers": [layer_name]}]
    files = {
        configuration_name: configuration,
        layer_name: layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    temporary = target.with_name(target.name + ".new")
    temporary.write_bytes(_tar(files, mode=0o644))
    temporary.replace(target)


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
