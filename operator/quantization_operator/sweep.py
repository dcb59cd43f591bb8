"""Compares the cache with the API server: the proof that the watch is alive, and the repair of what it cannot tell.

A watch that is resumed after a gap lists what exists and says nothing of what was deleted meanwhile; a watch
that died says nothing at all. A listing (metadata only) shows both: what the cache has and the server has not
is forgotten, and what the server has and the cache has not, after a grace, means that the watch is dead: if it is
still there as listed, by another listing and when it is read by itself. Nothing that cannot be read counts.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence

from quantization_operator.cache import Cache
from quantization_operator.identity import KINDS, Kind
from quantization_operator.kube import ApiError
from quantization_operator.probes import Health
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Listed, Listing, Reader

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
POLL_SECONDS_EACH = 5e-5
"""Longer for each object that is missing: looking for ten thousands must not take the time that the watch needs."""
LIST_AGAIN_SECONDS = 5.0
"""How long the watch may deliver nothing that is missing at start, before there is another listing."""
SETTLE_SECONDS = 2.0
"""A watch that begins anew tells of many objects at once: one sweep after all of them."""
GRACE_SECONDS = 10.0
"""An event may be on its way when the listing is made."""
GRACE_SECONDS_EACH = 0.05
"""Longer for each object that is missing: the watch takes its time to tell of hundreds that change at once."""
LONGEST_GRACE_SECONDS = 60.0
LOOKED_AT = 20
"""Of the objects that seem to be missing so many are read before that is believed of the others."""
OBJECTS_A_SECOND = 100
"""That sweeps list on average, half a percent of a core: a sweep of many objects takes seconds, so it is rarer."""


class NotSyncedError(Exception):
    """The first listing and the watch did not come together in time."""


def late(cache: Cache, kind: Kind, listing: Listing) -> list[Listed]:
    """Listed objects that the cache does not have, or has in an older version; what was deleted since is no such."""
    return [listed for uid, listed in listing.objects.items() if _late(cache, kind, uid, listed)]


def _late(cache: Cache, kind: Kind, uid: str, listed: Listed) -> bool:
    if cache.gone(kind, uid):
        return False
    known = cache.find(kind, uid)
    return known is None or known.resource_version < listed.resource_version


def _said(kind: Kind, listed: Listed) -> str:
    return f"{kind} {listed.key.namespace}/{listed.name}"


def ghosts(cache: Cache, kind: Kind, listing: Listing) -> list[str]:
    """Uids that the cache has and a listing has not, though it is as new as they are."""
    return [
        uid
        for uid in cache.uids(kind)
        if uid not in listing.objects
        and (known := cache.find(kind, uid)) is not None
        and known.resource_version <= listing.resource_version
    ]


class Sweeper:
    """Sweeps the namespaces that the operator serves; an empty sequence means all."""

    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue,
        reader: Reader,
        health: Health,
        namespaces: Sequence[str] = (),
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._reader = reader
        self._health = health
        self._namespaces: Sequence[str | None] = namespaces or [None]
        self._grace = grace
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Sweep soon: the watch began anew, so it may not have told of deletions."""
        if self._health.synced:
            self._wanted.set()

    async def synchronize(self, limit: float) -> None:
        """Wait until the watch has told everything that existed at start; only then may decisions be made.

        Raises:
            NotSyncedError: that took longer than `limit` seconds.
            ApiError: the API server refuses the listing, or did not answer in that time.
        """
        clock = asyncio.get_running_loop().time
        end, listed_or_told = clock() + limit, -math.inf
        missing: list[tuple[Kind, str, Listed]] | None = None
        while clock() < end:
            if clock() - listed_or_told >= LIST_AGAIN_SECONDS:
                # what was deleted since the last listing will never come by the watch
                try:
                    missing = await self._everything()
                except ApiError as error:
                    if not error.temporary or end - clock() <= LIST_AGAIN_SECONDS:
                        raise
                    logger.warning("the first listing: %s", error)
                listed_or_told = clock()
            if missing is not None:
                before, missing = len(missing), [item for item in missing if _late(self._cache, *item)]
                if not missing:
                    self._health.synced = True
                    self._health.swept("")
                    return
                if len(missing) < before:
                    listed_or_told = clock()
            await asyncio.sleep(POLL_SECONDS + POLL_SECONDS_EACH * len(missing or ()))
        names = [_said(kind, listed) for kind, _, listed in (missing or ())[:1]]
        raise NotSyncedError(
            f"after {limit:.0f} s the watch has not delivered {len(missing or ())} objects, such as {names}"
        )

    async def _everything(self) -> list[tuple[Kind, str, Listed]]:
        listings = {kind: await self._listing(kind) for kind in KINDS}
        return [(kind, uid, item) for kind in KINDS for uid, item in listings[kind].objects.items()]

    async def run(self, interval: float) -> None:
        """Sweep forever, `interval` seconds apart or more (OBJECTS_A_SECOND).

        A sweep that cannot be made is told to the probes by its absence.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._health.sweep_interval)
                await asyncio.sleep(SETTLE_SECONDS)
            self._wanted.clear()
            listed = 0
            try:
                listed = await self.sweep()
            except ApiError as error:
                logger.warning("sweep: %s", error)
            self._health.sweep_interval = max(interval, listed / OBJECTS_A_SECOND)

    async def sweep(self) -> int:
        """Forget what is gone, and judge whether the watch keeps up; how many objects were listed."""
        missed: list[str] = []
        listed = 0
        for kind in KINDS:
            listing = await self._listing(kind)
            listed += len(listing.objects)
            for uid in ghosts(self._cache, kind, listing):
                if key := self._cache.drop(kind, uid):
                    logger.info("%s %s disappeared unnoticed", kind, uid, extra={"namespace": key.namespace})
                    self._queue.add(key)
            missed += await self._missed(kind, listing)
        self._health.swept(f"{len(missed)} objects, such as {missed[0]}" if missed else "")
        return listed

    async def _missed(self, kind: Kind, listing: Listing) -> list[str]:
        """Objects of which the watch should have told by now: by another listing, and one of them by a look."""
        if not (behind := late(self._cache, kind, listing)):
            return []
        await asyncio.sleep(
            min(self._grace + GRACE_SECONDS_EACH * len(behind), max(self._grace, LONGEST_GRACE_SECONDS))
        )
        if not late(self._cache, kind, listing):
            return []
        again = await self._listing(kind)
        both = Listing({uid: listing.objects[uid] for uid in listing.objects if uid in again.objects}, 0)
        for listed in late(self._cache, kind, both)[:LOOKED_AT]:
            if await self._is_missed(kind, listed):
                return [_said(kind, item) for item in late(self._cache, kind, both)]
        return []

    async def _is_missed(self, kind: Kind, listed: Listed) -> bool:
        """Whether an object is there as the listing said, or newer, and the watch has still not told of it."""
        now = await self._reader.snapshot(kind, listed.key.namespace, listed.name)
        return now is not None and _late(self._cache, kind, now.uid, listed)

    async def _listing(self, kind: Kind) -> Listing:
        parts = [await self._reader.listing(kind, namespace) for namespace in self._namespaces]
        objects = {uid: listed for part in parts for uid, listed in part.objects.items()}
        return Listing(objects, min(part.resource_version for part in parts))
