"""HTTP server of a run: /progress (JSON), /metrics (Prometheus), /healthz. Read-only, no request body."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import HEALTH_PATH, METRICS_PATH, PROGRESS_PATH
from quantizer.progress.tracker import Tracker


class ProgressServer:
    """`with ProgressServer(host, port, tracker, registry):` - serves in a thread until the block ends.

    port 0 takes any free one; `port` tells which.

    Raises:
        QuantizationError: Internal when the address cannot be bound.
    """

    def __init__(self, host: str, port: int, tracker: Tracker, registry: CollectorRegistry) -> None:
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(tracker, registry))
        except OSError as error:
            raise QuantizationError(
                Category.INTERNAL, f"the progress server cannot listen on {host}:{port}: {error}"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        # the end of a run waits for the server to look whether it was stopped: half a second by default
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="progress", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(tracker: Tracker, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == PROGRESS_PATH:
                body = tracker.snapshot().model_dump_json(by_alias=True, exclude_none=True).encode()
                self._answer(200, "application/json", body)
            elif self.path == METRICS_PATH:
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path == HEALTH_PATH:
                self._answer(200, "text/plain; charset=utf-8", b"ok\n")
            else:
                self._answer(404, "text/plain; charset=utf-8", b"not found\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            """Polls are not worth a line of the log."""

    return Handler
