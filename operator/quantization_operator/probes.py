"""Whether the operator works, and the small HTTP server that says so: /healthz, /readyz, /metrics.

That a process answers proves little. What is judged: the event loop's heartbeat, the age of the last sweep
that could be made, whether the watch missed something that a sweep saw, how long a job waits for a worker, and
the age of the last answer about the lease. Ready is who could lead at once, so followers too.
The server has a thread of its own, so that it still answers, with the reason, when the event loop is stuck.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from quantization_operator.queue import WorkQueue

logger = logging.getLogger(__name__)

HEARTBEAT_LIMIT_SECONDS = 30.0
QUEUE_LIMIT_SECONDS = 300.0
LEASE_LIMIT_SECONDS = 60.0
MISSED_SWEEPS = 4


class Health:
    """What the parts of the operator report about themselves; times are monotonic seconds.

    sweep_interval: seconds until the next sweep. lease_silence: for how many seconds nothing was heard of the lease.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        sweep_interval: float,
        lease_silence: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._lease_silence = lease_silence
        self.sweep_interval = sweep_interval
        self.synced = False
        self.watch_missed = ""
        self._heartbeat = self._watch_proven = self._swept = clock()

    def beat(self) -> None:
        """The event loop turns."""
        self._heartbeat = self._clock()

    def watch_event(self) -> None:
        """An event came by the watch."""
        self._watch_proven = self._clock()

    def swept(self, missed: str) -> None:
        """A sweep was made; `missed` says what the watch had not told, "" when it had told everything."""
        self._swept = self._clock()
        self.watch_missed = missed
        if not missed:
            self._watch_proven = self._clock()

    @property
    def watch_age(self) -> float:
        """Seconds since the watch was last proven alive."""
        return self._clock() - self._watch_proven

    def complaints(self, queue: WorkQueue) -> list[str]:
        """Why the process should be restarted; empty when it works."""
        now, found = self._clock(), []
        if now - self._heartbeat > HEARTBEAT_LIMIT_SECONDS:
            found.append(f"the event loop has not turned for {now - self._heartbeat:.0f} s")
        if self.synced and now - self._swept > MISSED_SWEEPS * self.sweep_interval:
            found.append(f"the API server could not be listed for {now - self._swept:.0f} s")
        if self.watch_missed:
            found.append(f"the watch missed {self.watch_missed}")
        if self.synced and queue.oldest_seconds > QUEUE_LIMIT_SECONDS:
            found.append(f"a job has been waiting for a worker for {queue.oldest_seconds:.0f} s")
        if (silence := self._lease_silence()) > LEASE_LIMIT_SECONDS:
            found.append(f"no answer about the lease for {silence:.0f} s")
        return found


class Verdict:
    """What /healthz says. A restart loses the reason, so it is logged, when it is another one than before."""

    def __init__(self, health: Health, queue: WorkQueue) -> None:
        self._health = health
        self._queue = queue
        self._logged = ""
        self._lock = threading.Lock()

    def __call__(self) -> tuple[int, str]:
        """The code and the text."""
        text = "; ".join(self._health.complaints(self._queue))
        kinds = re.sub(r"[0-9]+", "", text)  # how many seconds it has lasted is no other reason
        with self._lock:
            logged, self._logged = self._logged, kinds
        if kinds and kinds != logged:
            logger.warning("unhealthy: %s", text)
        elif logged and not kinds:
            logger.info("healthy again")
        return (503, text) if text else (200, "ok")


async def heartbeat(health: Health, interval: float = 1.0) -> None:
    """Beat forever."""
    while True:
        health.beat()
        await asyncio.sleep(interval)


def serve(
    host: str, port: int, health: Health, queue: WorkQueue, registry: CollectorRegistry
) -> ThreadingHTTPServer:
    """Start the server in a thread; its `server_address` has the port when 0 was asked for."""
    verdict = Verdict(health, queue)

    class Handler(BaseHTTPRequestHandler):
        """Answers GET of the three paths."""

        timeout = 10

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                case "/healthz":
                    self._say(*verdict())
                case "/readyz":
                    self._say(*((200, "ok") if health.synced else (503, "the first listing is not complete")))
                case _:
                    self._say(404, "only /metrics, /healthz and /readyz are served")

        def _say(self, code: int, text: str) -> None:
            self._answer(code, f"{text}\n".encode(), "text/plain; charset=utf-8")

        def _answer(self, code: int, body: bytes, content_type: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Probes every few seconds are not worth a log line."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
