"""Puts an S3 server into the cluster: SeaweedFS with authentication, buckets, and the examples' inputs in them."""

import argparse
import base64
import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_cluster import images, kustomization
from local_cluster.buckets import Buckets, from_secret
from local_cluster.certificates import Authority
from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.target import Target, local

NAMESPACE = "quantization-demo"
CREDENTIALS = "s3-credentials"
"""Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for spec.storage.credentialsSecret."""
_SERVER_SECRET = "s3-server"
_BUCKETS = ("models", "datasets", "artifacts")
_PORT = 8333
_MANIFESTS = images.ROOT / "deploy/local/seaweedfs"
_EXAMPLES = images.ROOT / "deploy/examples"
# Nobody has a certificate of this authority, so nobody may talk to the gRPC port; the S3 port asks for signatures.
_SECURITY = """[grpc]
ca = "/etc/seaweedfs/ca.crt"
[grpc.s3]
cert = "/etc/seaweedfs/server.crt"
key = "/etc/seaweedfs/server.key"
"""


def ensure(target: Target, directory: Path, image: str, progress: Progress) -> None:
    """Have the server running, its buckets made and the examples' inputs in them; what is there already is left alone.

    Args:
        target: the cluster.
        directory: where the kustomization that is applied is written.
        image: the server's image, by digest or tag.
        progress: who is told.

    Raises:
        ClusterError: the server does not become ready, or refuses the inputs.
    """
    kubectl = target.kubectl
    kubectl("apply", "--server-side", "-f", _MANIFESTS / "namespace.yaml")
    _ensure_secrets(target)
    kustomization.write(directory, [_MANIFESTS], {"seaweedfs": image})
    kubectl("apply", "--server-side", "--force-conflicts", "-k", directory)
    with progress.step("Starting the S3 server", quiet_below=2.0):
        kubectl("--namespace", NAMESPACE, "rollout", "status", "statefulset/s3", "--timeout=180s")
    with progress.step("Uploading the examples' model and texts", quiet_below=2.0), opened(target) as buckets:
        buckets.ensure(_BUCKETS)
        buckets.upload("models", "stories15m", sorted((_EXAMPLES / "stories15m").iterdir()))
        buckets.upload("datasets", "tinystories", sorted((_EXAMPLES / "text").glob("*.txt")))


@contextmanager
def opened(target: Target) -> Iterator[Buckets]:
    """The buckets of the server in the cluster, reached from this machine inside the block."""
    credentials = _secret(target, CREDENTIALS)
    if credentials is None:
        raise ClusterError(
            "there is no S3 server in the cluster yet; `python -m local_cluster s3` starts one"
        )
    with target.forwarded(NAMESPACE, "svc/s3", _PORT) as port:
        yield from_secret(f"http://127.0.0.1:{port}", credentials)


def _secret(target: Target, name: str) -> dict[str, str] | None:
    done = target.kubectl(
        "--namespace", NAMESPACE, "get", "secret", name, "--ignore-not-found", "--output", "json"
    )
    if not done.stdout.strip():
        return None
    data: dict[str, str] = json.loads(done.stdout).get("data", {})
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def _ensure_secrets(target: Target) -> None:
    """Random keys, once for each cluster, and the server's configuration that goes with them."""
    credentials = _secret(target, CREDENTIALS)
    if credentials is None:
        credentials = {
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10).upper(),
            "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
        }
        _apply_secret(target, CREDENTIALS, credentials)
    identities = server_identities(credentials)
    present = _secret(target, _SERVER_SECRET)
    if present is None or present.get("s3.json") != identities:
        with tempfile.TemporaryDirectory() as directory:
            authority = Authority.create(Path(directory) / "pki", "ca")
            pair = authority.server("server", "s3", ["DNS:s3"])
            content = {
                "s3.json": identities,
                "security.toml": _SECURITY,
                "ca.crt": authority.pair.certificate.read_text(),
                "server.crt": pair.certificate.read_text(),
                "server.key": pair.key.read_text(),
            }
        _apply_secret(target, _SERVER_SECRET, content)
        if present is not None:
            target.kubectl("--namespace", NAMESPACE, "rollout", "restart", "statefulset/s3")


def server_identities(credentials: Mapping[str, str]) -> str:
    """The server's list of who may do what: one identity with all rights, and nobody else."""
    keys = {"accessKey": credentials["AWS_ACCESS_KEY_ID"], "secretKey": credentials["AWS_SECRET_ACCESS_KEY"]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return json.dumps({"identities": [{"name": "demo", "credentials": [keys], "actions": actions}]})


def _apply_secret(target: Target, name: str, content: Mapping[str, str]) -> None:
    """Server-side, since the ordinary apply would copy the secret into an annotation."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "Opaque",
        "stringData": dict(content),
    }
    target.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest))


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add `s3` to the command line."""
    parser = subparsers.add_parser(
        "s3", help="run an S3 server in the local cluster, with the examples' inputs"
    )
    parser.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    progress = Progress()
    reference = images.ensure(settings, ["seaweedfs"], progress)["seaweedfs"]
    ensure(local(settings), settings.state / "install" / "s3", reference, progress)
    progress.say(
        f"In the cluster: http://s3.{NAMESPACE}.svc:{_PORT}, credentials in the Secret {CREDENTIALS} "
        f"of the namespace {NAMESPACE}, buckets {', '.join(_BUCKETS)}"
    )
    return 0
