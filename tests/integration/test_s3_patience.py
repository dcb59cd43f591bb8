"""A storage that is away for some seconds costs no attempt; one that stays away, or refuses, is told."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store import s3
from quantizer.store.interface import OUTPUT

pytestmark = pytest.mark.integration

LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>run/</Prefix><KeyCount>1</KeyCount>
<IsTruncated>false</IsTruncated><Contents><Key>run/a</Key><Size>3</Size><ETag>"e"</ETag></Contents></ListBucketResult>"""
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


class Storage:
    """A port at which nobody listens until `serve`; requests counts the answers."""

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.requests = 0
        self._server: ThreadingHTTPServer | None = None

    def serve(self, code: int, body: bytes) -> None:
        storage = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                storage.requests += 1
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self._held.close()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Answer)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._held.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    connect = s3.connect

    def once(access: StorageAccess, attempts: int, read_timeout: float) -> Any:
        return connect(access, 1, read_timeout)

    monkeypatch.setattr(s3, "connect", once)  # botocore's own back-off is real time
    made = Storage()
    yield made
    made.close()


def store(
    storage: Storage, on_sleep: Callable[[float], None] = lambda _: None
) -> tuple[s3.S3Store, list[float]]:
    """A store whose clock stands still but for its own pauses, which it also returns."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        on_sleep(sum(pauses))

    access = StorageAccess(endpoint=f"http://127.0.0.1:{storage.port}")
    return s3.S3Store("b", "run", OUTPUT, access, sleep, lambda: sum(pauses)), pauses


def test_a_storage_that_comes_back_is_waited_for(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    def come_back(passed: float) -> None:
        if passed == 3 * s3.PAUSE_SECONDS:
            storage.serve(200, LISTING)

    there, pauses = store(storage, come_back)
    assert list(there.list()) == ["a"]
    assert sum(pauses) == 3 * s3.PAUSE_SECONDS
    assert [record.getMessage().endswith("; trying again") for record in caplog.records] == [True] * 3


def test_a_storage_that_stays_away_is_told(storage: Storage) -> None:
    there, pauses = store(storage)
    with pytest.raises(QuantizationError) as told:
        there.list()
    assert told.value.category is Category.STORAGE_UNAVAILABLE
    assert s3.PATIENCE_SECONDS <= sum(pauses) < s3.PATIENCE_SECONDS + s3.PAUSE_SECONDS


def test_who_is_refused_does_not_wait(storage: Storage) -> None:
    storage.serve(403, DENIED)
    there, pauses = store(storage)
    with pytest.raises(QuantizationError) as told:
        there.list()
    assert told.value.category is Category.ACCESS_DENIED
    assert (storage.requests, pauses) == (1, [])
