"""Asks running pods how far they are: a few at a time, at a bounded rate, and no answer is no harm."""

import asyncio
import logging
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError

from quantization_api.pod import PROGRESS_PATH, PROGRESS_PORT
from quantization_api.status import Progress
from quantization_operator.cache import Cache, Key, Record
from quantization_operator.diagnose import by_age
from quantization_operator.queue import WorkQueue

logger = logging.getLogger(__name__)

AT_ONCE = 8
TIMEOUT_SECONDS = 3.0
LARGEST_ANSWER = 16 * 1024


def targets(cache: Cache) -> list[tuple[Key, Record, str]]:
    """The jobs that run, with the address of the pod that works for them."""
    result = []
    for record in cache.unfinished():
        request = record.request
        if request is None or request.deleting:
            continue
        running = [
            pod for pod in by_age(list(record.pods.values())) if pod.running and pod.ip and not pod.deleting
        ]
        if running:
            result.append((Key(request.namespace, request.uid), record, running[-1].ip))
    return result


class Poller:
    """Polls all running pods round by round; a round takes at least `interval` seconds."""

    def __init__(self, cache: Cache, queue: WorkQueue, interval: float, per_second: float) -> None:
        self._cache = cache
        self._queue = queue
        self._interval = interval
        self._pause = 1.0 / per_second
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, clock: Callable[[], float]) -> None:
        """Poll for ever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                started = clock()
                async with asyncio.TaskGroup() as group:
                    for key, record, address in targets(self._cache):
                        await self._slots.acquire()
                        group.create_task(self._poll(session, key, record, address))
                        await asyncio.sleep(self._pause)
                await asyncio.sleep(max(self._pause, self._interval - (clock() - started)))

    async def _poll(self, session: aiohttp.ClientSession, key: Key, record: Record, address: str) -> None:
        try:
            seen = await fetch(session, address)
        finally:
            self._slots.release()
        if seen is not None and seen != record.progress:
            record.progress = seen
            self._queue.add(key)


async def fetch(session: aiohttp.ClientSession, address: str) -> Progress | None:
    """The progress of the pod at an address; None when it gives none that is valid."""
    host = f"[{address}]" if ":" in address else address
    try:
        url = f"http://{host}:{PROGRESS_PORT}{PROGRESS_PATH}"
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                return None
            body = await answer.content.read(LARGEST_ANSWER + 1)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None  # the pod has just started or ended
    try:
        return Progress.model_validate_json(body)
    except ValidationError as error:
        logger.warning("progress of %s is not valid: %d errors", address, error.error_count())
        return None
