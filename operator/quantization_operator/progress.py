"""Asks running pods how far they are: a few at a time, at a bounded rate, and no answer is no harm."""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from pydantic import ValidationError

from quantization_api.pod import PROGRESS_PATH, PROGRESS_PORT, RunProgress
from quantization_api.text import clean
from quantization_operator.cache import Cache, Record
from quantization_operator.diagnose import cleaned
from quantization_operator.identity import Key
from quantization_operator.parsing import LONGEST_WORD
from quantization_operator.queue import WorkQueue
from quantization_operator.snapshots import MOST_WORKERS
from quantization_operator.workers import running

logger = logging.getLogger(__name__)

AT_ONCE = 8
TIMEOUT_SECONDS = 3.0
LARGEST_ANSWER = 16 * 1024
REMEMBERED_REFUSALS = 1024
SILENT_SECONDS = 60.0
"""How long a pod may run without saying how far it is before its user is told."""
SHUT_OFF = (
    f"its progress is not known: nothing answers at port {PROGRESS_PORT} of its pod; let the operator's pods reach it "
    "(NetworkPolicy). The run goes on"
)
OTHERS = (
    f"its progress is not known: what answers at port {PROGRESS_PORT} of its pod is not the quantizer; keep other "
    "containers off that port. The run goes on"
)


@dataclass(slots=True)
class Target:
    """A job that runs, and what its workers answer in one round."""

    key: Key
    record: Record
    addresses: list[str]
    asked: int = 0
    """Of the addresses, those that have answered, or will not."""
    answers: list[RunProgress] = field(default_factory=list)
    others: bool = False
    """Something else than a quantizer answered."""


def targets(cache: Cache) -> list[Target]:
    """The jobs that run, with the addresses of the pods that work for them: those of the Job that is believed."""
    result = []
    for record in cache.unfinished():
        qjob = record.qjob
        if qjob is None or qjob.deleting:
            continue
        own = [pod for pod in record.pods.values() if pod.job_uid == record.believed != ""]
        addresses = [address for pod in running(own) if pod.ip and (address := host_of(pod.ip))]
        if addresses:
            result.append(Target(Key(qjob.namespace, qjob.uid), record, addresses[-MOST_WORKERS:]))
    return result


def merged(answers: Sequence[RunProgress]) -> RunProgress | None:
    """What several workers say together: the one that is furthest knows most of what all have done."""
    if not answers:
        return None
    furthest = max(answers, key=lambda told: (told.search.done if told.search else 0, told.percent))
    return furthest.model_copy(
        update={
            "percent": max(told.percent for told in answers),
            "eta_seconds": min((t.eta_seconds for t in answers if t.eta_seconds is not None), default=None),
            "notice": next((told.notice for told in answers if told.notice), None),
        }
    )


def no_less(told: RunProgress, before: RunProgress | None) -> RunProgress:
    """What is told, but no point of a search less: the worker that knew of it may be gone."""
    known = before.search if before else None
    if known and told.search and told.search.done < known.done:
        return told.model_copy(update={"search": known})
    return told


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
        self._refused: dict[tuple[Key, str], None] = {}
        self._silent_since: dict[Key, float] = {}

    async def run(self, clock: Callable[[], float]) -> None:
        """Poll forever."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                started = clock()
                asked = targets(self._cache)
                self._silent_since = {t.key: self._silent_since.get(t.key, started) for t in asked}
                async with asyncio.TaskGroup() as group:
                    for target in asked:
                        for address in target.addresses:
                            await self._slots.acquire()
                            group.create_task(self._poll(session, target, address))
                            await asyncio.sleep(self._pause)
                for target in asked:
                    self._hear(target, clock())
                await asyncio.sleep(max(self._pause, self._interval - (clock() - started)))

    async def _poll(self, session: aiohttp.ClientSession, target: Target, address: str) -> None:
        try:
            seen = await fetch(session, address)
        finally:
            self._slots.release()
        if isinstance(seen, str):
            self._say_once(target.key, address, seen)
        elif seen is not None:
            target.answers.append(seen)
        target.others |= isinstance(seen, str)
        target.asked += 1
        if target.asked < len(target.addresses):
            return
        told, before = merged(target.answers), target.record.progress
        if told is not None and (told := no_less(told, before)) != before:
            target.record.progress = told
            self._queue.add(target.key)

    def _hear(self, target: Target, now: float) -> None:
        """Note of a job that nothing was heard of it for a while, or not any more."""
        if target.answers:
            self._silent_since[target.key] = now
        silent = now - self._silent_since.get(target.key, now) >= SILENT_SECONDS
        unheard = (OTHERS if target.others else SHUT_OFF) if silent else ""
        if target.record.unheard != unheard and (target.answers or silent):
            target.record.unheard = unheard
            self._queue.add(target.key)

    def _say_once(self, key: Key, address: str, why: str) -> None:
        """That a pod's progress is refused, once for each pod; of the oldest it is forgotten that it was said."""
        if (key, address) in self._refused:
            return
        self._refused[key, address] = None
        if len(self._refused) > REMEMBERED_REFUSALS:
            del self._refused[next(iter(self._refused))]
        extra = {"namespace": key.namespace, "uid": key.uid}
        logger.warning("the progress served by the pod at %s is ignored: %s", address, why, extra=extra)


async def fetch(session: aiohttp.ClientSession, host: str) -> RunProgress | str | None:
    """The progress of the pod at a host; why it is not valid; None when the pod gives none."""
    try:
        url = f"http://{host}:{PROGRESS_PORT}{PROGRESS_PATH}"
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                return f"it answers with status {answer.status}"
            body = await answer.content.read(LARGEST_ANSWER + 1)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None  # the pod has just started or ended
    return read_progress(body)


def read_progress(body: bytes) -> RunProgress | str:
    """The progress that a pod told, or why it is left alone: what is out of its range is refused as a whole."""
    if len(body) > LARGEST_ANSWER:
        return f"it has more than {LARGEST_ANSWER} bytes"
    try:
        seen = RunProgress.as_told(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return clean(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", LONGEST_WORD)
    own = {"stage": clean(seen.stage, LONGEST_WORD), "shown": None, "search": cleaned(seen.search)}
    return seen.model_copy(update=own)
