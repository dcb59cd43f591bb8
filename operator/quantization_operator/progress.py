"""Asks running pods how far they are: a few at a time, at a bounded rate, and no answer is no harm."""

import asyncio
import ipaddress
import logging
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError

from quantization_api.pod import PROGRESS_PATH, PROGRESS_PORT
from quantization_api.status import Progress
from quantization_api.text import clean
from quantization_operator.cache import Cache, Record
from quantization_operator.diagnose import by_age
from quantization_operator.identity import Key
from quantization_operator.parsing import LONGEST_WORD
from quantization_operator.queue import WorkQueue

logger = logging.getLogger(__name__)

AT_ONCE = 8
TIMEOUT_SECONDS = 3.0
LARGEST_ANSWER = 16 * 1024
REMEMBERED_REFUSALS = 1024


def targets(cache: Cache) -> list[tuple[Key, Record, str]]:
    """The jobs that run, with the address of the pod that works for them: one of the Job that is believed, no other."""
    result = []
    for record in cache.unfinished():
        qjob = record.qjob
        if qjob is None or qjob.deleting:
            continue
        own = [pod for pod in record.pods.values() if pod.job_uid == record.believed != ""]
        running = [pod for pod in by_age(own) if pod.running and pod.ip and not pod.deleting]
        if running and (address := host_of(running[-1].ip)):
            result.append((Key(qjob.namespace, qjob.uid), record, address))
    return result


def host_of(ip: str) -> str:
    """The address of a pod as it stands in a URL; "" for what is none, or that of a cloud's metadata."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return ""
    return f"[{address}]" if address.version == 6 else str(address)


class Poller:
    """Polls all running pods round by round; a round takes at least `interval` seconds."""

    def __init__(self, cache: Cache, queue: WorkQueue, interval: float, per_second: float) -> None:
        self._cache = cache
        self._queue = queue
        self._interval = interval
        self._pause = 1.0 / per_second
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._refused: dict[Key, str] = {}

    async def run(self, clock: Callable[[], float]) -> None:
        """Poll forever."""
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
        if isinstance(seen, str):
            self._say_once(key, address, seen)
        elif seen is not None and seen != record.progress:
            record.progress = seen
            self._queue.add(key)

    def _say_once(self, key: Key, address: str, why: str) -> None:
        """That a pod's progress is refused, once for each pod; of the oldest it is forgotten that it was said."""
        if self._refused.get(key) == address:
            return
        self._refused[key] = address
        if len(self._refused) > REMEMBERED_REFUSALS:
            del self._refused[next(iter(self._refused))]
        extra = {"namespace": key.namespace, "uid": key.uid}
        logger.warning("the progress served by the pod at %s is ignored: %s", address, why, extra=extra)


async def fetch(session: aiohttp.ClientSession, host: str) -> Progress | str | None:
    """The progress of the pod at a host; why it is not valid; None when the pod gives none."""
    try:
        url = f"http://{host}:{PROGRESS_PORT}{PROGRESS_PATH}"
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                return None
            body = await answer.content.read(LARGEST_ANSWER + 1)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None  # the pod has just started or ended
    return read_progress(body)


def read_progress(body: bytes) -> Progress | str:
    """The progress that a pod told, or why it is left alone: what is out of its range is refused as a whole."""
    if len(body) > LARGEST_ANSWER:
        return f"it has more than {LARGEST_ANSWER} bytes"
    try:
        seen = Progress.as_told(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return clean(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", LONGEST_WORD)
    return seen.model_copy(update={"stage": clean(seen.stage, LONGEST_WORD)})
