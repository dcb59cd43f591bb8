"""A keyed work queue: what must be looked at again, each job by one worker at a time.

The contract is client-go's workqueue: a key that is added while it waits is not added twice; a key that is
added while a worker has it comes back after `done`, so the newest state always wins; `after` adds later, and
an earlier time wins; `retry` backs off exponentially, with jitter so that many failures do not come back as
one wave. Beyond it, namespaces take turns: one with ten thousand jobs cannot starve another. And under load some
jobs go before the others, nearly always: those that wait for their first Job or for their end to be told. What the
status of others says is late then, and says more at once, which is less work.
"""

import asyncio
import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from quantization_operator.identity import Key

RETRY_BASE_SECONDS = 0.2
RETRY_LIMIT_SECONDS = 60.0
FIRST_IN_A_ROW = 16
"""After so many that go first it is the turn of one that waits behind them."""


def backoff(failures: int, random: float) -> float:
    """Delay in seconds before try number `failures` + 1: doubling, bounded, and 50 to 100 % of it at random."""
    return float(min(RETRY_LIMIT_SECONDS, RETRY_BASE_SECONDS * 2 ** min(failures, 16)) * (0.5 + 0.5 * random))


class Lane:
    """Keys in the order in which they came, the namespaces in turns."""

    def __init__(self) -> None:
        self._namespaces: OrderedDict[str, deque[Key]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._namespaces)

    def append(self, key: Key) -> None:
        """Put a key at the end of its namespace."""
        self._namespaces.setdefault(key.namespace, deque()).append(key)

    def popleft(self) -> Key:
        """The first key of the namespace whose turn it is."""
        namespace, keys = self._namespaces.popitem(last=False)
        key = keys.popleft()
        if keys:
            self._namespaces[namespace] = keys  # to the end: its turn comes again after the others'
        return key


class WorkQueue:
    """The queue of one event loop. `clock` is that loop's monotonic time; `random` gives numbers in [0, 1).

    goes_first: whether a job goes before others, asked whenever it is added.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        random: Callable[[], float],
        goes_first: Callable[[Key], bool] = lambda _key: False,
    ) -> None:
        self._clock = clock
        self._random = random
        self._goes_first = goes_first
        self._first, self._others = Lane(), Lane()
        self._lanes: dict[Key, Lane] = {}
        self._in_a_row = 0
        self._waiting: dict[Key, float] = {}
        self._again: set[Key] = set()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._order = itertools.count()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._open = True
        self.retries = 0

    def close(self) -> None:
        """Take nothing: this process decides nothing yet."""
        self._open = False

    def open(self, keys: Iterable[Key]) -> None:
        """Take what comes from now on, and these first."""
        self._open = True
        for key in keys:
            self.add(key)

    def add(self, key: Key) -> None:
        """Look at this job as soon as a worker is free."""
        if not self._open:
            return
        self._due.pop(key, None)
        if key in self._busy:
            self._again.add(key)
            return
        lane = self._first if self._goes_first(key) else self._others
        if self._lanes.get(key) in (lane, self._first):
            return
        self._waiting.setdefault(key, self._clock())
        self._lanes[key] = (
            lane  # one that moves to the first lane leaves its place in the other, which is passed over
        )
        lane.append(key)
        self._wake()

    def after(self, key: Key, delay: float) -> None:
        """Look at this job in `delay` seconds, if nothing makes it earlier."""
        due = self._clock() + delay
        if key in self._waiting or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._order), key))
        if self._later[0][0] == due:
            self._set_alarm()

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """Look at this job again after a failure; the delay in seconds, never shorter than the server asked for."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.retries += 1
        delay = max(at_least, backoff(failures, self._random()))
        self.after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """This job was dealt with: its next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next job, when there is one; the caller owns it until `done`."""
        self._promote()
        while not self._waiting:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            try:
                await idle
            except asyncio.CancelledError:
                if not idle.cancelled():  # it was woken: another one must take what there is
                    self._wake()
                raise
        key = self._next()
        del self._waiting[key], self._lanes[key]
        self._busy.add(key)
        return key

    def done(self, key: Key) -> None:
        """The worker is finished with this job; news that came meanwhile put it back."""
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    @property
    def depth(self) -> int:
        """Jobs that wait for a worker now."""
        return len(self._waiting)

    @property
    def oldest_seconds(self) -> float:
        """How long the job that waits longest has waited for a worker."""
        oldest = next(iter(list(self._waiting.values())), None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def _next(self) -> Key:
        while True:
            first = self._first and (self._in_a_row < FIRST_IN_A_ROW or not self._others)
            lane = self._first if first else self._others
            key = lane.popleft()
            if self._lanes.get(key) is lane:
                self._in_a_row = self._in_a_row + 1 if first else 0
                return key

    def _wake(self) -> None:
        """One of those that wait: of sixteen that woke for one key fifteen would find nothing."""
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    def _set_alarm(self) -> None:
        """Promote what is due next, at its time."""
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(0.0, self._later[0][0] - self._clock())
        self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._promote()
        if self._later:
            self._set_alarm()

    def _promote(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:  # otherwise the key was added, or its time was moved, meanwhile
                self.add(key)
