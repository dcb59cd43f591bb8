"""How often progress is written: a status write is an API call and wakes every watcher.

Two writes are at least an interval and one percent apart; a new stage or layer count of another run is news too.
A notice is told at once. The workers of a search go through all stages for each of its points: there the news is that
a point has ended.
"""

from datetime import datetime, timedelta

from quantization_api.pod import RunProgress


def due(
    written: RunProgress | None,
    seen: RunProgress | None,
    last: datetime | None,
    now: datetime,
    interval: float,
) -> bool:
    """Whether the progress that was seen is worth a write."""
    if seen is None or seen == written:
        return False
    if seen.notice != (written.notice if written else None):
        return True
    if last is not None and now - last < timedelta(seconds=interval):
        return False
    if written is None or abs(seen.percent - written.percent) >= 1:
        return True
    return written.search != seen.search if seen.search else written.stage != seen.stage
