"""What Kueue says of a suspended Job: a slim picture of its Workload, and its place in the line."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""On a Job: the LocalQueue of its namespace that it waits in."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """How a Job stands in its queue.

    read: when Kueue was asked. workload: its name, "" where there is none (yet), or none can be read; `message` then
    says why. active: somebody deactivated it otherwise. evicted: the reason why it had to stop, "" when it has not
    run, or was admitted again since. reserved: it has its quota. checks: admission checks that it still waits for.
    position: how many Jobs of its LocalQueue are before it, and itself; None when that is not known.
    """

    read: datetime
    workload: str = ""
    message: str = ""
    active: bool = True
    evicted: str = ""
    evicted_message: str = ""
    reserved: bool = False
    checks: tuple[str, ...] = ()
    position: int | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any], pending: Mapping[str, Any], read: datetime) -> "QueueEntry":
        """From a Workload (v1beta2) and the list of those pending in its LocalQueue (visibility v1beta2)."""
        status = body.get("status") or {}
        conditions = {c.get("type"): c for c in status.get("conditions") or ()}
        quota, evicted = conditions.get("QuotaReserved") or {}, conditions.get("Evicted") or {}
        was_evicted = evicted.get("status") == "True"
        name = body["metadata"]["name"]
        return cls(
            read=read,
            workload=name,
            message=quota.get("message") or "",
            active=(body.get("spec") or {}).get("active", True),
            evicted=(evicted.get("reason") or "Unknown") if was_evicted else "",
            evicted_message=(evicted.get("message") or "") if was_evicted else "",
            reserved=quota.get("status") == "True",
            checks=tuple(c["name"] for c in status.get("admissionChecks") or () if c.get("state") != "Ready"),
            position=_position(name, pending),
        )


def _position(workload: str, pending: Mapping[str, Any]) -> int | None:
    for item in pending.get("items") or ():
        if item["metadata"]["name"] == workload:
            return int(item["positionInLocalQueue"]) + 1
    return None
