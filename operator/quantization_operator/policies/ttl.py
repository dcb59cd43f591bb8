"""ttlSecondsAfterFinished: how long a finished object stays, as for a batch/v1 Job (KEP-592)."""

from datetime import datetime, timedelta


def left(ttl_seconds: int | None, completed: datetime | None, now: datetime) -> float | None:
    """Seconds until the object expires (0: it has); None: never. A clock that jumped back only makes it later."""
    if ttl_seconds is None or completed is None:
        return None
    return max(0.0, (completed + timedelta(seconds=ttl_seconds) - now).total_seconds())
