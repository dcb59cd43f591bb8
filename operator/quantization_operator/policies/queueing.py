"""How a Job stands that its queue keeps suspended, and how often to ask.

Kueue suspends a Job when it is created, lets it go on when there is quota, and suspends it again to take the quota
back. That flag is Kueue's: nothing here, or anywhere in the operator, writes it. A Job that has to stop for its queue
has not failed; it waits for its turn again, and its next pod goes on from the layers that are saved.
"""

from datetime import datetime, timedelta

from quantization_operator.conditions import RUNNING_REASON, State
from quantization_operator.queue_entry import QueueEntry
from quantization_operator.snapshots import ChildJob

NEAR_SECONDS = 5.0
"""Least time between two looks at a Job whose position is known; one second more for each that is before it, so a
line of thousands costs a few looks a second."""
EARLIEST_SECONDS, LATEST_SECONDS = 1.0, 300.0


def left(child: ChildJob, entry: QueueEntry | None, now: datetime) -> float | None:
    """Seconds until Kueue is asked (again); 0: now; None: never, since the Job is in none of its queues."""
    if not child.suspended or not child.queue:
        return None
    if entry is None:
        return 0.0
    if entry.position is not None:
        wait = NEAR_SECONDS + entry.position
    else:
        wait = max(EARLIEST_SECONDS, (entry.read - child.created).total_seconds() / 4)
    return max(0.0, (entry.read + timedelta(seconds=min(wait, LATEST_SECONDS)) - now).total_seconds())


def state(child: ChildJob, entry: QueueEntry | None, before: str) -> State:
    """The state of a suspended Job. before: the reason of its last state, which tells most where Kueue says nothing."""
    if entry is None or not entry.workload:
        reason = "Preempted" if before in (RUNNING_REASON, "Preempted") else "Queued"
        return State("in progress", reason, _untold(child, entry))
    line = _line(child.queue, entry)
    if not entry.active:
        again = f"set spec.active of Workload {entry.workload} to true to queue it again"
        return State("in progress", "Deactivated", f"deactivated in LocalQueue {child.queue}; {again}")
    if entry.evicted == "Preempted":
        return State("in progress", "Preempted", f"{line}; {entry.evicted_message}")
    if entry.evicted:
        return State("in progress", "Evicted", f"{line}; {entry.evicted}: {entry.evicted_message}")
    return State("in progress", "Queued", line)


def _untold(child: ChildJob, entry: QueueEntry | None) -> str:
    if not child.queue:
        return "the Job is suspended: it starts when it is resumed"
    unread = f" ({entry.message})" if entry and entry.message else ""
    return f"waiting for admission by LocalQueue {child.queue}{unread}"


def _line(queue: str, entry: QueueEntry) -> str:
    if entry.reserved:
        waits_for = f"admission check {', '.join(entry.checks)}" if entry.checks else "the start of its Job"
        return f"has its quota in LocalQueue {queue}; waiting for {waits_for}"
    place = f"position {entry.position} in LocalQueue {queue}" if entry.position else f"in LocalQueue {queue}"
    return f"{place}: {entry.message}" if entry.message else place
