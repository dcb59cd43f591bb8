"""Waits on conditions, with a limit and a sentence for when it passes."""

import time
from collections.abc import Callable
from typing import TypeVar

from local_cluster.errors import ClusterError

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    what: str,
    limit: float,
    interval: float = 0.05,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Ask again and again until `condition` returns something true, and return that.

    At most a third of the time goes into questions: one of kubectl costs as much as a server that it waits for needs.

    Args:
        condition: returns a true value when it holds; it may raise ClusterError to give up at once.
        what: completes the sentence "waited N s for ..."; it may end with where to look.
        limit: seconds after which waiting ends.
        interval: seconds between two questions, or more if they take long.

    Raises:
        ClusterError: the limit passed.
    """
    deadline = clock() + limit
    while True:
        asked = clock()
        answer = condition()
        if answer:
            return answer
        if (now := clock()) >= deadline:
            raise ClusterError(f"waited {limit:.0f} s for {what}")
        pause(max(interval, 2 * (now - asked)))
