"""Admission webhooks for Jobs, as a cluster has them: one that nobody serves any more, and one that denies."""

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import until

from local_cluster.certificates import Authority

CREATES_A_JOB = ("create", "job", "probe", "--image=x")


def configuration(name: str, client: dict[str, Any], *operations: str) -> dict[str, Any]:
    """A webhook that must answer before one of these operations is done to a Job."""
    rule = {
        "apiGroups": ["batch"],
        "apiVersions": ["v1"],
        "operations": list(operations),
        "resources": ["jobs"],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": f"{name}.example.com",
                "clientConfig": client,
                "rules": [rule],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 2,
            }
        ],
    }


def unreachable(*operations: str) -> dict[str, Any]:
    """A webhook that must answer, and that nobody serves."""
    return configuration("nobody", {"url": "https://127.0.0.1:1/"}, *operations)


@contextmanager
def in_force(cluster: Cluster, body: dict[str, Any], *refused: str) -> Iterator[None]:
    """With this webhook in force until the block ends. refused: what kubectl cannot do while it is."""
    cluster.apply(body)
    try:
        probe = (*refused, "--dry-run=server", "-n", NAMESPACE)
        until("the webhook is asked", lambda: cluster.api.kubectl(*probe, check=False).returncode != 0)
        yield
    finally:
        cluster.api.kubectl("delete", "validatingwebhookconfiguration", body["metadata"]["name"])


class DenyingWebhook:
    """A webhook that answers, and denies every request with a sentence and no code.

    directory: for its certificates. client: how the API server finds it, inside the block.
    """

    def __init__(self, directory: Path, sentence: str) -> None:
        authority = Authority.create(directory, "webhook-ca")
        pair = authority.server("webhook", "webhook", ["IP:127.0.0.1"])
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _denies(sentence))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.client = {
            "url": f"https://127.0.0.1:{self._server.server_address[1]}/",
            "caBundle": base64.b64encode(authority.pair.certificate.read_bytes()).decode(),
        }

    def __enter__(self) -> Self:
        """Serve."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()


def _denies(sentence: str) -> type[http.server.BaseHTTPRequestHandler]:
    class Denies(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            response = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": sentence}}
            body = json.dumps(
                {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Denies
