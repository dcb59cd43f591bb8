"""Work on every calibration batch: small batches side by side, large ones one after another.

On a CPU a small product leaves the threads that share it waiting for each other: the example's forward passes
took 5.1 s with one thread and 3.9 s with two. A thread for each batch has nothing to wait for. It costs the
memory of several batches, so batches that are large, where sharing a product pays, go one by one.

What is handed out comes in the order of the batches either way, so sums over them are the same in every run on
as many threads.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from quantizer.decoder.activations import ActivationStore
from quantizer.threads import threads

T = TypeVar("T")

SIDE_BY_SIDE_BYTES = 96_000_000
"""What batches in work at the same time may take."""

WIDEST = 16
"""Hidden states of a batch times this is about what a layer's forward holds of it: an MLP of three to four times
the width has a gate, an input, their product and its activation."""


class Batchwise:
    """Runs functions of a batch's number over all batches of a store.

    Args:
        hidden: the batches; only their shapes, width, dtype and device are looked at. As many run at once as
            torch has threads, when their memory allows it.
    """

    def __init__(self, hidden: ActivationStore) -> None:
        self._count = len(hidden)
        tokens = max((batch * length for batch, length in hidden.shapes), default=0)
        held = WIDEST * tokens * hidden.width * hidden.dtype.itemsize
        fit = SIDE_BY_SIDE_BYTES // held if held and hidden.device.type == "cpu" else 1
        self.workers = max(1, min(torch.get_num_threads(), fit, self._count))

    def in_order(self, function: Callable[[int], T]) -> Iterator[T]:
        """function(0), function(1), ...: the results in this order; what a function raises comes in its place.

        While results are taken, the caller has a share of the threads.
        """
        if self.workers == 1:
            yield from map(function, range(self._count))
            return
        share = max(1, torch.get_num_threads() // self.workers)
        pool, running = _pool(self.workers, share), deque[Future[T]]()
        try:
            with threads(share):
                for number in range(self._count):
                    running.append(pool.submit(_inferring, function, number))
                    if len(running) > self.workers:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()  # it may still write to a store that the caller is about to close

    def each(self, function: Callable[[int], None]) -> None:
        """function(0), function(1), ...: all of them are done when it returns."""
        for _ in self.in_order(function):
            pass


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """One pool for the whole run: MKL keeps buffers for every thread that it ever saw."""
    return ThreadPoolExecutor(workers, "batch", torch.set_num_threads, (threads,))


def _inferring(function: Callable[[int], T], number: int) -> T:
    with torch.inference_mode():  # each thread has its own
        return function(number)
