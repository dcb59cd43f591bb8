"""Images that no container can be started from, put together by hand and pushed to the local registry."""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from local_cluster.shell import run

OURS, OTHER = ("arm64", "amd64") if platform.machine() in ("aarch64", "arm64") else ("amd64", "arm64")
PROGRAM = "quantizer"
BAD: dict[str, tuple[str, dict[str, bytes]]] = {
    "no-such-program": (OURS, {}),
    "other-architecture": (OURS, {PROGRAM: b"no machine runs this"}),
    "image-wrong-platform": (OTHER, {}),
}
"""Architecture that the image is said to be for, and its files."""


def push(name: str, registry: str) -> str:
    """Push one of BAD to a registry; its name there."""
    destination = f"{registry}/e2e/{name}:1"
    with tempfile.TemporaryDirectory() as directory:
        architecture, files = BAD[name]
        _write(Path(directory), architecture, files)
        options = ("--quiet", "--insecure-policy", "--dest-tls-verify=false", "--multi-arch=all")
        run("skopeo", "copy", *options, f"oci:{directory}", f"docker://{destination}")
    return destination


def _write(folder: Path, architecture: str, files: dict[str, bytes]) -> None:
    """An OCI image layout of one layer (image-spec, image-layout.md)."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    layer = blob("layer.v1.tar", _tar(files))
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [f"/{PROGRAM}"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    described = blob("config.v1+json", json.dumps(config).encode())
    manifest = blob("manifest.v1+json", _described("manifest", config=described, layers=[layer]))
    entry = manifest | {"platform": {"os": "linux", "architecture": architecture}}
    index = blob("index.v1+json", _described("index", manifests=[entry]))
    (folder / "index.json").write_bytes(_described("index", manifests=[index]))
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _described(kind: str, **fields: Any) -> bytes:
    """A manifest or an index: what holds its fields says what it is."""
    return json.dumps(
        {"schemaVersion": 2, "mediaType": f"application/vnd.oci.image.{kind}.v1+json", **fields}
    ).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()
