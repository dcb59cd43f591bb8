"""Who leads: the decisions about a coordination.k8s.io/v1 Lease. Pure; `leadership.py` sends the requests.

    what was seen of the Lease, monotonic now  ->  read, write, wait or lost

Two promises make that no two processes lead at once, however late or lost the messages are:

- A leader counts its time from the moment *before* a successful renewal was sent, and stops after
  `renew_deadline` seconds, which is less than the lease's `duration`.
- A candidate takes the lease only after it has itself seen the same version for `duration` seconds, and writes
  over exactly that version. The clock starts when the answer has come, so later than the leader's.

Only differences of one process's monotonic clock are used, one that goes on while the machine sleeps. The times in
the Lease are for people: a wall clock that jumps, or two that differ, change nothing.

    leader     sent ──── renew_deadline: writes end ──┐
                 └─ stored ─┐                         │ margin: a request that is under way ends
    candidate               └ seen ────────────────── duration: may write over this version
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

Action = Literal["read", "write", "wait", "lost"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of the election, in seconds."""

    duration: int
    """How long others leave a silent leader its lease."""
    renew_deadline: float
    """When the leader stops by itself."""
    interval: float
    """Between two tries."""

    @property
    def writes_end(self) -> float:
        """When the last request that was sent in time must have ended: half of the margin is left for the network."""
        return (self.duration + self.renew_deadline) / 2

    @property
    def request_timeout(self) -> float:
        """Of a request about the lease: three unanswered ones fit before the deadline."""
        return self.renew_deadline / 3


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as it is stored."""

    version: str
    holder: str = ""
    """Empty when it was released."""
    duration: float = 0.0
    transitions: int = 0
    acquired: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Kept as others left it."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "LeaseRecord":
        """The record of a Lease as the API server sends it."""
        spec = body.get("spec") or {}
        return cls(
            version=body["metadata"]["resourceVersion"],
            holder=spec.get("holderIdentity") or "",
            duration=float(spec.get("leaseDurationSeconds") or 0),
            transitions=int(spec.get("leaseTransitions") or 0),
            acquired=spec.get("acquireTime") or "",
            metadata={key: value for key, value in body["metadata"].items() if key != "managedFields"},
        )


@dataclass(frozen=True, slots=True)
class View:
    """What one process knows. Times are its monotonic seconds."""

    identity: str
    timing: Timing
    record: LeaseRecord | None = None
    """As last seen; None: there is none."""
    seen_at: float | None = None
    """Since when it is known in this version."""
    renewed_at: float | None = None
    """When the request of the last successful renewal was about to be sent; None: does not lead."""
    current: bool = False
    """The record was read or written since the last wait or failure."""

    def leads(self, now: float) -> bool:
        """Whether a write may be started now."""
        return self.renewed_at is not None and now < self.renewed_at + self.timing.renew_deadline

    def write_seconds(self, now: float) -> float:
        """How long a write that is started now may take; 0: it must not be started."""
        if self.renewed_at is None or not self.leads(now):
            return 0.0
        return self.renewed_at + self.timing.writes_end - now

    def action(self, now: float) -> Action:
        """What to do next; "lost" is final.

        A leader whose record is gone has lost: another may make a new one. A candidate that had seen a record
        leaves it its time, from when it was missed.
        """
        if self.renewed_at is not None:
            taken = self.current and (self.record is None or self.record.holder != self.identity)
            if taken or not self.leads(now):
                return "lost"
            return "write" if self.current else "read"
        if not self.current:
            return "read"
        return "wait" if self.patience(now) > 0 else "write"

    def patience(self, now: float) -> float:
        """How long the lease must still be left to its holder, in seconds; 0: it may be taken."""
        if self.seen_at is None:
            return 0.0  # there never was one
        if self.record is not None and self.record.holder in ("", self.identity):
            return 0.0
        duration = self.record.duration if self.record is not None else self.timing.duration
        return max(0.0, self.seen_at + max(duration, self.timing.duration) - now)

    def was_read(self, record: LeaseRecord | None, now: float) -> "View":
        """After an answer that came at `now`; None: there is no such Lease."""
        if record is None:
            since = now if self.record is not None else self.seen_at
            return replace(self, record=None, seen_at=since, current=True)
        news = self.record is None or self.record.version != record.version
        return replace(self, record=record, seen_at=now if news else self.seen_at, current=True)

    def was_written(self, record: LeaseRecord, sent: float, now: float) -> "View":
        """After a write that was about to be sent at `sent` has succeeded."""
        return replace(self, record=record, seen_at=now, renewed_at=sent, current=True)

    def not_current(self) -> "View":
        """After a request that failed, or a wait of one who does not lead: look before the next decision."""
        return replace(self, current=False)

    def released(self) -> "View":
        """Of its own will: no write may be started from now on."""
        return replace(self, renewed_at=None, current=False)


def written(
    view: View, namespace: str, name: str, wall: datetime, *, release: bool = False
) -> dict[str, Any]:
    """The Lease to be sent: made, taken, renewed, or released; over exactly the version that was seen."""
    record, stamp = view.record, wall.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    metadata = dict(record.metadata) if record else {"namespace": namespace, "name": name}
    renewal = record is not None and record.holder == view.identity
    spec: dict[str, Any] = {
        "leaseDurationSeconds": 1 if release else view.timing.duration,
        "leaseTransitions": record.transitions + (not renewal) if record else 0,
        "acquireTime": record.acquired if record and renewal and record.acquired else stamp,
        "renewTime": stamp,
    }
    if not release:
        spec["holderIdentity"] = view.identity
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata | ({"resourceVersion": record.version} if record else {}),
        "spec": spec,
    }
