"""A node whose kubelet only gives logs: what `kubectl logs` reaches through a real API server."""

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from local_cluster.certificates import Authority
from local_cluster.control_plane import ApiServer

NODE = "node-1"


@contextmanager
def kubelet(api: ApiServer, directory: Path) -> Iterator[dict[str, str]]:
    """The node, and name of a pod -> the log of its container, to be filled by the test."""
    logs: dict[str, str] = {}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pod = self.path.split("/")[3]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(logs.get(pod, "").encode())

        def log_message(self, *_: object) -> None:
            """Silent."""

    pair = Authority.create(directory, "nodes").server("kubelet", NODE, ["IP:127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        _register(api, server.server_address[1])
        yield logs
    finally:
        server.shutdown()
        server.server_close()


def bind(api: ApiServer, namespace: str, pod: str) -> None:
    """As the scheduler does."""
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod, "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
    }
    api.kubectl("create", "-f", "-", stdin=yaml.safe_dump(body))


def _register(api: ApiServer, port: int) -> None:
    node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(node))
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    patch = json.dumps({"status": status})
    api.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", patch)
