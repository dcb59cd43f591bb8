"""One budget for waiting out storage outages, shared by every call of every store of a run.

Storage that restarts, moves to another node or is overloaded is away for seconds or minutes. That must not cost an
attempt of the job, so calls that get no answer are repeated until the budget is spent. The budget is for the outage,
not for each call: threads that wait for the same storage share the time since it last answered.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from quantization_api.constants import PATIENCE_SECONDS
from quantization_api.failures import Category, QuantizationError
from quantizer.store.interface import StopCheck, never_stop

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
WAKE_SECONDS = 0.5
"""How long a waiting thread sleeps between stop checks."""
LOG_EVERY = 15.0

Answer = TypeVar("Answer")


class AwayError(QuantizationError):
    """The storage did not answer, or asked to retry later: the same request may succeed in a while."""

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(Category.STORAGE_UNAVAILABLE, message, hint)
        self.retry_after = retry_after
        """Seconds that the server asked to wait."""


def next_pause(
    repeats: int, waited: float, budget: float, retry_after: float | None, luck: float
) -> float | None:
    """Seconds until the next try, or None when the budget is spent.

    The pauses double. `luck`, from 0 to 1, spreads each pause over its second half, so that clients do not all return
    at once. The server's Retry-After is a lower bound. The last try comes when the budget ends.
    """
    if waited >= budget:
        return None
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(repeats, 16)) * (0.5 + 0.5 * luck)
    if retry_after is not None:
        pause = max(pause, retry_after * (1 + 0.1 * luck))
    return min(pause, budget - waited)


class Patience:
    """Waits for a storage; safe to share between threads.

    Args:
        seconds: the budget; with 0 every call is tried once.
        stop_check: called while waiting.
        on_outage: called with True when an outage begins, and with False when it ends.
    """

    def __init__(
        self,
        seconds: float = PATIENCE_SECONDS,
        stop_check: StopCheck = never_stop,
        on_outage: Callable[[bool], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self.seconds = seconds
        self._stop_check, self._on_outage = stop_check, on_outage
        self._sleep, self._clock, self._luck = sleep, clock, luck
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._answered_at = clock()
        self._logged_at = 0.0

    def call(self, action: Callable[[], Answer]) -> Answer:
        """The result of the action, which is repeated while it raises AwayError.

        Raises:
            QuantizationError: StorageUnavailable when the budget is spent; anything else that the action raises.
        """
        began, repeats = self._clock(), 0
        while True:
            try:
                result = action()
            except AwayError as error:
                self._wait(error, began, repeats)
                repeats += 1
            else:
                self._answered()
                return result

    def _wait(self, error: AwayError, began: float, repeats: int) -> None:
        # Counted from this call's start even if others are answered: writes may fail where reads do not.
        waited = self._clock() - min(began, self._failed(began))
        pause = next_pause(repeats, waited, self.seconds, error.retry_after, self._luck())
        if pause is None:
            raise QuantizationError(
                error.category, f"{error.message} (gave up after {waited:.0f} s)", error.hint
            ) from error
        self._log(error, waited)
        self._rest(pause)

    def _failed(self, began: float) -> float:
        """When the outage began."""
        with self._lock:
            if self._away_since is not None:
                return self._away_since
            self._away_since = since = max(began, self._answered_at)
            self._logged_at = since - LOG_EVERY
        self._on_outage(True)
        return since

    def _answered(self) -> None:
        with self._lock:
            since, self._away_since = self._away_since, None
            self._answered_at = self._clock()
        if since is not None:
            self._on_outage(False)
            logger.warning("the storage responds again after %.0f s", self._clock() - since)

    def _log(self, error: AwayError, waited: float) -> None:
        with self._lock:
            due = self._clock() >= self._logged_at + LOG_EVERY
            if due:
                self._logged_at = self._clock()
        if due:
            logger.warning(
                "storage unreachable for %.0f s (giving up after %.0f s), retrying: %s",
                waited,
                self.seconds,
                error,
            )

    def _rest(self, seconds: float) -> None:
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            self._stop_check()
            self._sleep(min(WAKE_SECONDS, left))
        self._stop_check()
