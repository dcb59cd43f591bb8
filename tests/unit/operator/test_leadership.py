"""The thread that keeps the lease, with the clock that the operator gives it."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes import client
from tests.support.operator_process import until

from quantization_operator import __main__ as operator
from quantization_operator.leadership import Leadership, seconds_since_boot
from quantization_operator.settings import OperatorSettings

pytestmark = pytest.mark.unit


class OneLease(BaseHTTPRequestHandler):
    """An API server that stores one Lease, and the last that was written."""

    stored: dict[str, Any] | None
    version = 0

    def do_GET(self) -> None:
        self._answer(404 if OneLease.stored is None else 200, OneLease.stored or {})

    def do_POST(self) -> None:
        OneLease.version += 1
        OneLease.stored = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        OneLease.stored["metadata"]["resourceVersion"] = str(OneLease.version)
        self._answer(200, OneLease.stored)

    def do_PUT(self) -> None:
        self.do_POST()

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def leadership(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leadership]:
    """As `operate` makes it."""
    OneLease.stored = None
    server = ThreadingHTTPServer(("127.0.0.1", 0), OneLease)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def log_in(_connections: int) -> client.Configuration:
        configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")
        configuration.retries = False
        return configuration

    monkeypatch.setattr(operator, "log_in", log_in)

    async def make() -> Leadership:
        return operator._leadership(OperatorSettings(lease_namespace="n"), asyncio.Event())

    made = asyncio.run(make())
    yield made
    made.release()
    server.shutdown()
    server.server_close()


def test_who_wakes_up_after_a_sleep_leads_no_more(
    leadership: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    leadership.start()
    until("it leads", lambda: leadership.leads)
    now = time.clock_gettime
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: now(clock) + (3600 if clock == time.CLOCK_BOOTTIME else 0)
    )
    assert not leadership.leads
    assert leadership.write_seconds == 0
    until("it knows", lambda: leadership.lost)
    assert "could not be renewed" in leadership.lost


def test_without_such_a_clock_it_is_the_monotonic_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    before = time.monotonic()
    assert before <= seconds_since_boot() <= time.monotonic()
