"""A proxy before a real S3 server that answers late, damaged, or not at all, as a test asks for."""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

What = Literal["busy", "lose", "flip answer", "flip request", "cut", "fail"]
"""busy: 503 SlowDown instead of the answer. lose: the request is done, its answer is lost. flip: one bit of the body.
cut: half of the answer's body. fail: 500 with the body `failure`."""

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Fault:
    """What is done to the requests that `hits` is true of (method, path with query), `times` of them."""

    what: What
    hits: Callable[[str, str], bool]
    times: int = 1
    retry_after: int | None = None
    failure: bytes = b""
    done: list[str] = field(default_factory=list)


class S3Proxy:
    """`with S3Proxy(server.endpoint) as proxy:` - proxy.endpoint, proxy.faults, proxy.requests."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target).netloc
        self._lock = threading.Lock()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - the server's names

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, what: What, hits: Callable[[str, str], bool], times: int = 1, **more: object) -> Fault:
        """A fault from now on; its `done` are the requests that it hit."""
        fault = Fault(what, hits, times, **more)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if len(fault.done) < fault.times and fault.hits(method, path):
                    fault.done.append(f"{method} {path}")
                    return fault
        return None

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._fault(request.command, request.path)
        what = fault.what if fault else None
        if fault and what == "busy":
            return _answer(request, 503, {"Retry-After": str(fault.retry_after)}, SLOW_DOWN)
        if fault and what == "fail":
            return _answer(request, 500, {}, fault.failure)
        if what == "flip request":
            body = _flipped(body)
        status, headers, data = self._forward(request, body)
        if what == "lose":
            request.close_connection = True
            return None
        if what == "flip answer":
            data = _flipped(data)
        return _answer(request, status, headers, data, cut=what == "cut")

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._target, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        kept = dict(answer.getheaders())
        connection.close()
        return answer.status, kept, data


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, cut: bool = False
) -> None:
    request.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in ("content-length", "transfer-encoding", "connection") and value != "None":
            request.send_header(name, value)
    length = headers.get("Content-Length", str(len(data))) if request.command == "HEAD" else str(len(data))
    request.send_header("Content-Length", length)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data[: len(data) // 2] if cut else data)
    if cut:
        request.close_connection = True


def _flipped(data: bytes) -> bytes:
    """One bit in the middle."""
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 0x10
    return bytes(changed)
