"""A page that says how far a pod is, as the quantizer in it does."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_page(address: str) -> Iterator[dict[str, Any]]:
    """Serves it at an address of this machine, which pods may have as theirs; what it says, to be changed."""
    said: dict[str, Any] = {"percent": 40, "stage": "quantize", "layer": 2, "layers": 6, "etaSeconds": 9}

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(said).encode()
            self.send_response(200 if self.path == "/progress" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer((address, 8080), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield said
    finally:
        server.shutdown()
        server.server_close()
