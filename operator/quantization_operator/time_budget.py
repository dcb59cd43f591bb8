"""How much time a kind of request may take, so that a server under load does not get more of them for it.

The API server finds the events of one object among all events of its namespace. With ten thousand jobs that wait for
their pods these reads took all of its time, so that the pods came later still.
"""

from collections.abc import Callable
from types import TracebackType


class TimeBudget:
    """A share of all time, saved up to `most` seconds. Use it as a context manager around each request.

    Requests may overlap, a few. Those that are under way when it ends overdraw it, which is paid back before there is
    any left again; of a debt beyond three times `most` the rest is forgiven, or nothing would be read for an hour.
    """

    def __init__(self, clock: Callable[[], float], share: float, most: float) -> None:
        self._clock = clock
        self._share = share
        self._most = most
        self._saved = most
        self._running = 0
        self._seen = clock()

    @property
    def left(self) -> bool:
        """Whether a request may begin now, beside those that run and may each need a quarter of `most`."""
        self._settle()
        return self._saved > self._running * self._most / 4

    def __enter__(self) -> None:
        """A request begins."""
        self._settle()
        self._running += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It has ended, whatever became of it."""
        self._settle()
        self._running -= 1

    def _settle(self) -> None:
        now = self._clock()
        passed, self._seen = now - self._seen, now
        saved = self._saved + passed * (self._share - self._running)
        self._saved = max(-3 * self._most, min(self._most, saved))
