"""Keeps the lease: a thread of its own with a connection of its own, so that a busy event loop does not lose it.

The thread reads and writes the Lease as `lease.py` decides, with short timeouts, so that an API server that hangs
does not hide that time runs out. Whether this process may write is a question to the clock, not to the thread.
A process that has lost the lease ends: what it knows may be old. If its event loop does not end it, the thread does.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime

from quantization_operator import paths
from quantization_operator.kube import ApiError, Connection
from quantization_operator.lease import LeaseRecord, View, written

logger = logging.getLogger(__name__)

EXIT_GRACE_SECONDS = 5.0
"""How long the event loop may take to end the process after the lease was lost."""
_NOT_FOUND, _CONFLICT = 404, 409
_RETRY_SECONDS = 0.2
"""Least time between two requests, whatever the answers are."""


class LeaseLostError(Exception):
    """Another process may lead now."""


def seconds_since_boot() -> float:
    """The clock of the lease: monotonic, and it also goes on while the machine sleeps (CLOCK_BOOTTIME).

    The ordinary monotonic clock stands still meanwhile, so a leader that wakes up would take its lease for as fresh
    as it was, long after another has it. Outside of Linux there is only that one.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Leadership:
    """One process's part in the election. `clock`: `seconds_since_boot`; `now`: the wall clock, for people to read.

    on_lead: called in the thread when the process begins to lead. `lost` says why it does so no more, forever.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        name: str,
        view: View,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        on_lead: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._name = name
        self._view = view
        self._clock = clock
        self._now = now
        self._on_lead = on_lead
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._heard = clock()
        self._complaint = ""
        self.lost = ""

    def start(self) -> None:
        """Become a candidate."""
        self._heard = self._clock()
        self._thread.start()

    @property
    def leads(self) -> bool:
        """Whether this process leads at this moment."""
        return self.write_seconds > 0

    @property
    def write_seconds(self) -> float:
        """How long a write that is started now may take; 0: it must not be started."""
        return 0.0 if self._stopped.is_set() else self._view.write_seconds(self._clock())

    @property
    def silence(self) -> float:
        """Seconds since the API server last answered about the lease; 0 before this process is a candidate."""
        return self._clock() - self._heard if self._thread.is_alive() else 0.0

    def release(self) -> None:
        """Give the lease back, if it is held; to be called when nothing is being written any more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self._view.timing.request_timeout + 1)
        if self._thread.is_alive() or not self._view.leads(self._clock()):
            return
        try:
            self._send(self._view, release=True)
            logger.info("released the lease %s/%s", self._namespace, self._name)
        except ApiError as error:
            logger.warning("the lease was not released, it ends by itself: %s", error)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._stopped.wait(self._step())
                if self.lost:
                    break
        except Exception:  # nothing may keep a process without a lease alive
            logger.exception("the lease thread failed")
            self.lost = "the lease thread failed"
        if self.lost:
            self._view = self._view.released()
            if not self._stopped.wait(EXIT_GRACE_SECONDS):
                logger.error("the lease was lost and the process did not end by itself: %s", self.lost)
                os._exit(1)

    def _step(self) -> float:
        """One request, or none; how long to wait before the next step, in seconds."""
        view, timing = self._view, self._view.timing
        now = self._clock()
        action = view.action(now)
        if action == "lost":
            self.lost = self._why_lost()
            return 0.0
        if action == "wait":
            self._view = view.not_current()
            return max(_RETRY_SECONDS, min(timing.interval, view.patience(now)))
        try:
            if action == "read":
                found = self._read()
                self._view = view.was_read(found, self._clock())
                return 0.0
            self._view = view.was_written(self._send(view), now, self._clock())
        except ApiError as error:
            if error.code in (_NOT_FOUND, _CONFLICT):
                self._heard = self._clock()
            else:
                self._complain(error)
            self._view = view.not_current()
            return _RETRY_SECONDS if error.code in (0, _CONFLICT) else min(1.0, timing.interval)
        self._complaint = ""
        if view.renewed_at is None:
            logger.info("leads, with the lease %s/%s", self._namespace, self._name)
            self._on_lead()
        return timing.interval

    def _complain(self, error: ApiError) -> None:
        """Once, and not with every try."""
        cure = "; the Role in deploy/base grants what the operator needs" if error.code == 403 else ""
        if (said := f"{error}{cure}") != self._complaint:
            logger.log(logging.WARNING if error.temporary else logging.ERROR, said)
        self._complaint = said

    def _read(self) -> LeaseRecord | None:
        path = paths.lease(self._namespace, self._name)
        try:
            body = self._connection.request("GET", path, self._timeout())
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            body = {}
        self._heard = self._clock()
        return LeaseRecord.of(body) if body else None

    def _send(self, view: View, *, release: bool = False) -> LeaseRecord:
        body = written(view, self._namespace, self._name, self._now(), release=release)
        method, path = "PUT", paths.lease(self._namespace, self._name)
        if view.record is None:
            method, path = "POST", paths.leases(self._namespace)
        answer = self._connection.request(method, path, self._timeout(), body=body)
        self._heard = self._clock()
        return LeaseRecord.of(answer)

    def _timeout(self) -> float:
        """Short, and never past the leader's own deadline: then there is something more urgent to do."""
        timeout, renewed = self._view.timing.request_timeout, self._view.renewed_at
        left = math.inf if renewed is None else renewed + self._view.timing.renew_deadline - self._clock()
        return max(_RETRY_SECONDS, min(timeout, left))

    def _why_lost(self) -> str:
        view = self._view
        if view.current and view.record is None:
            return "the Lease was deleted"
        if view.current and view.record and view.record.holder != view.identity:
            return f"{view.record.holder or 'nobody'} holds the lease"
        return f"the lease could not be renewed for {view.timing.renew_deadline:g} s"
