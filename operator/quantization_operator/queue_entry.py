"""What Kueue says of a suspended Job: a slim picture of its Workload, and its place in the line."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quantization_operator.parsing import at, integer, mapping, mappings, text, word

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""On a Job: the LocalQueue of its namespace that it waits in."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """How a Job stands in its queue."""

    read: datetime
    """When Kueue was asked."""
    workload: str = ""
    """Its name; "" where there is none (yet), or none can be read."""
    message: str = ""
    """Why it waits, or why no Workload can be read."""
    active: bool = True
    """False: somebody deactivated it."""
    evicted: str = ""
    """Why it had to stop; "" when it has not run, or was admitted again since."""
    evicted_message: str = ""
    reserved: bool = False
    """It has its quota."""
    checks: tuple[str, ...] = ()
    """Admission checks that it still waits for."""
    position: int | None = None
    """In its LocalQueue, from 1; None: not known."""

    @classmethod
    def of(cls, body: Any, pending: Mapping[str, int], read: datetime) -> "QueueEntry":
        """From a Workload (v1beta2) and the positions of those pending in its LocalQueue. It cannot raise."""
        conditions = {word(c.get("type")): c for c in mappings(at(body, "status", "conditions"))}
        quota, evicted = (mapping(conditions.get(key)) for key in ("QuotaReserved", "Evicted"))
        was_evicted = evicted.get("status") == "True"
        name = word(at(body, "metadata", "name"))
        return cls(
            read=read,
            workload=name,
            message=text(quota.get("message")),
            active=at(body, "spec", "active") is not False,
            evicted=(word(evicted.get("reason")) or "Unknown") if was_evicted else "",
            evicted_message=text(evicted.get("message")) if was_evicted else "",
            reserved=quota.get("status") == "True",
            checks=_open_checks(body),
            position=pending.get(name) or None,
        )


MOST_CHECKS = 16


def _open_checks(body: Any) -> tuple[str, ...]:
    checks = mappings(at(body, "status", "admissionChecks"))[:MOST_CHECKS]
    return tuple(word(check.get("name")) for check in checks if check.get("state") != "Ready")


def pending_position(item: Any) -> tuple[str, int]:
    """Of an item of the pending list of a LocalQueue (visibility v1beta2): the Workload, and its place, from 1."""
    return word(at(item, "metadata", "name")), integer(at(item, "positionInLocalQueue")) + 1
