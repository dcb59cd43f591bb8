"""The operator's own Cache, WorkQueue, Controller, Reader, Writer and Sweeper, on a network that a test plays.

A request does not arrive, and an answer does not come back, until the test says so; time stands still until the
test moves it. So every order of arrivals, answers and watch events can be tried, in one thread and reproducibly.
"""

import asyncio
import logging
import selectors
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.support.model_server import ModelServer, Told, selected

from quantization_operator.cache import Cache
from quantization_operator.controller import Controller
from quantization_operator.identity import KINDS, Kind
from quantization_operator.kube import JSON, NO_ANSWER, ApiError
from quantization_operator.kueue import Kueue
from quantization_operator.metrics import Metrics
from quantization_operator.probes import Health
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.settings import OperatorSettings
from quantization_operator.sweep import Sweeper
from quantization_operator.watch import RESOURCES
from quantization_operator.workload import MANAGED_BY_SELECTOR
from quantization_operator.write import Writer

SNAPSHOTS = {kind: snapshot for kind, _, snapshot in RESOURCES}
WORKERS = 2
TURNS = 15
"""Rounds of the loop in which everything that can go on without the network has gone on."""


class _Impatient(selectors.SelectSelector):
    def select(self, timeout: float | None = None) -> Any:  # noqa: ARG002
        return super().select(0)


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock only moves when it is told to, and that never waits."""

    def __init__(self) -> None:
        self.moment = 0.0
        super().__init__(_Impatient())

    def time(self) -> float:
        """Seconds since the beginning of the test."""
        return self.moment

    def settle(self, seconds: float = 0.0) -> None:
        """Move the clock, and run whatever can run."""
        self.moment += seconds
        for _ in range(TURNS):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass(eq=False)
class Call:
    """A request on its way. outcome: what the server said, once it arrived there."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    accept: str
    answer: "asyncio.Future[dict[str, Any]]"
    outcome: dict[str, Any] | ApiError | None = None

    def arrive(self, server: ModelServer) -> None:
        """Let the server do it, once."""
        if self.outcome is None:
            try:
                self.outcome = server.handle(self.method, self.path, self.query, self.body, self.accept)
            except ApiError as error:
                self.outcome = error

    def come_back(self, instead: ApiError | None = None) -> None:
        """Let the operator have the answer, or an error instead."""
        result = instead or self.outcome
        if self.answer.done():
            return
        if isinstance(result, ApiError):
            self.answer.set_exception(result)
        elif result is not None:
            self.answer.set_result(result)


class ModelNetwork:
    """In place of `Kube`: requests wait in `calls` until the test lets them go on."""

    def __init__(self, loop: StillLoop) -> None:
        self._loop = loop
        self.calls: list[Call] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,  # noqa: ARG002
        accept: str = JSON,
        each: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any]:
        """One request, as `Kube.request`."""
        call = Call(method, path, dict(query or {}), body, accept, self._loop.create_future())
        self.calls.append(call)
        try:
            answer = await call.answer
            return answer | {"items": [each(item) for item in answer["items"]]} if each else answer
        finally:
            self.calls.remove(call)


class ModelOperator:
    """One operator process. It begins, as the real one, with a listing that is complete."""

    def __init__(self, loop: StillLoop, server: ModelServer, now: datetime) -> None:
        self.loop, self.server, self._start = loop, server, now
        self.skew = timedelta()
        self.network = ModelNetwork(loop)
        self.cache = Cache()
        self.queue = WorkQueue(loop.time, lambda: 0.5, self.cache.presses)
        reader, writer = Reader(self.network), Writer(self.network, "model")  # type: ignore[arg-type]
        kueue = Kueue(self.network, self.now, loop.time)  # type: ignore[arg-type]
        controller = Controller(
            self.cache, self.queue, reader, kueue, writer, Metrics(), OperatorSettings(), self.now, loop.time
        )
        self._sweeper = Sweeper(self.cache, self.queue, reader, Health(loop.time, 120), grace=0)
        self._tasks: list[asyncio.Task[None]] = []
        self.seen: dict[Kind, int] = {}
        self.begun: dict[Kind, int] = {}
        for kind in KINDS:
            self.relist(kind)
        self.missed = False
        for _ in range(WORKERS):
            self._spawn(controller.work())
        loop.settle()

    def now(self) -> datetime:
        """The wall clock of the operator's machine."""
        return self._start + timedelta(seconds=self.loop.time()) + self.skew

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self.loop.create_task(coroutine))

    def kill(self) -> None:
        """End it; what it had sent is sent."""
        for task in self._tasks:
            task.cancel()
        self.loop.settle()

    # --- the watch -------------------------------------------------------------------------------------------

    def behind(self, kind: Kind) -> int:
        """Events that it was not told yet."""
        return len(self.server.told[kind]) - self.seen[kind]

    def deliver(self, kind: Kind) -> None:
        """The next event of a kind's watch."""
        self.tell(kind, self.server.told[kind][self.seen[kind]])
        self.seen[kind] += 1

    def relist(self, kind: Kind) -> None:
        """The watch begins anew: all that is there, and no word of what is gone."""
        self.missed = True
        self.seen[kind] = self.begun[kind] = len(self.server.told[kind])
        for body in self.server.objects[kind].values():
            self.tell(kind, Told(None, body))

    def tell(self, kind: Kind, told: Told) -> None:
        """What `watch._handler` does with an event, if the watch's selector lets it through."""
        if kind != "QuantizationJob" and not selected(told.body, MANAGED_BY_SELECTOR):
            return
        snapshot = SNAPSHOTS[kind](told.body)
        if told.type == "DELETED":
            key = self.cache.drop(kind, told.body["metadata"]["uid"])
        else:
            key = (
                self.cache.put(snapshot) if snapshot else self.cache.lose(kind, told.body["metadata"]["uid"])
            )
        if key is not None:
            self.queue.add(key)

    def sweep(self) -> None:
        """Begin a sweep."""

        async def sweep() -> None:
            try:
                await self._sweeper.sweep()
            except ApiError:
                return  # the next one

        self._spawn(sweep())
        self.loop.settle()

    # --- the network -----------------------------------------------------------------------------------------

    def exchange(self, limit: int) -> int:
        """Let requests arrive and come back, the oldest first, until none is under way; how many those were."""
        for count in range(limit):
            if not self.network.calls:
                return count
            call = self.network.calls[0]
            call.arrive(self.server)
            call.come_back()
            self.loop.settle()
        return limit

    def fail(self, call: Call, code: int, *, arrived: bool) -> None:
        """Answer an error, or none at all (code 0), after or before the server did it."""
        if arrived:
            call.arrive(self.server)
        call.come_back(ApiError(code or NO_ANSWER, "a fault", "Conflict" if code == 409 else ""))
        self.loop.settle()


class Defects(logging.Handler):
    """Tracebacks that the controller logged: it goes on after them, a test must not."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep those with a traceback."""
        if record.exc_info:
            self.found.append(logging.Formatter().formatException(record.exc_info))
