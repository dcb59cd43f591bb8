"""Asks Kueue how a suspended Job stands: two reads, and only while the Job is suspended.

There is no watch, so Kueue may be installed, upgraded or removed while the operator runs, and a job without a queue
costs nothing. The list of those that wait is read once for all of a LocalQueue that ask within a moment. Whatever
Kueue does not answer is told, and is no obstacle.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

from quantization_operator import parsing, paths
from quantization_operator.kube import ApiError, Kube
from quantization_operator.queue_entry import QueueEntry, pending_position
from quantization_operator.snapshots import ChildJob

SHARED_SECONDS = 2.0
"""How long the list of a LocalQueue serves all who ask for it."""
_NOT_FOUND = 404
_JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"


class Kueue:
    """Reads Workloads and pending lists. `now` is the wall clock, `clock` the monotonic one."""

    def __init__(self, kube: Kube, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        self._kube = kube
        self._now = now
        self._clock = clock
        self._lists: dict[tuple[str, str], tuple[float, asyncio.Task[Mapping[str, int]]]] = {}

    async def entry(self, child: ChildJob) -> QueueEntry:
        """How a Job stands in its queue."""
        query = {"labelSelector": f"{_JOB_UID_LABEL}={child.uid}", "limit": "1"}
        try:
            found = await self._kube.request("GET", paths.workloads(child.namespace), query=query)
        except ApiError as error:
            said = "Kueue is not installed" if error.code == _NOT_FOUND else error.message
            return QueueEntry(self._now(), message=said)
        workloads = parsing.mappings(found.get("items"))
        if not workloads:
            return QueueEntry(self._now())
        pending = await self._pending(child.namespace, child.queue)
        return QueueEntry.of(workloads[0], pending, self._now())

    async def _pending(self, namespace: str, queue: str) -> Mapping[str, int]:
        now = self._clock()
        for key in [key for key, (since, _) in self._lists.items() if now - since > SHARED_SECONDS]:
            del self._lists[key]
        shared = self._lists.get((namespace, queue))
        if shared is None:
            shared = now, asyncio.create_task(self._read_pending(namespace, queue))
            self._lists[namespace, queue] = shared
        return await asyncio.shield(shared[1])

    async def _read_pending(self, namespace: str, queue: str) -> Mapping[str, int]:
        try:
            path = paths.pending_workloads(namespace, queue)
            answer = await self._kube.request("GET", path, each=pending_position)
            return dict(answer["items"])
        except ApiError:  # Kueue's visibility server is optional, and the queue may not exist
            return {}
