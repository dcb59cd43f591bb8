"""Work on every calibration batch: small batches side by side, large ones one after another.

On a CPU a small product leaves the threads that share it waiting for each other: the example's forward passes
took 5.1 s with one thread and 3.9 s with two. A thread for each batch has nothing to wait for. It costs the
memory of several batches, so batches that are large, where sharing a product pays, go one by one.

Every worker has batches of its own, in their order, so what it sums up over them is the same in every run on as
many threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Event

import torch

from quantizer.decoder.activations import ActivationStore

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

    def each(self, function: Callable[[int], None]) -> None:
        """function(0), function(1), ...: all of them are done when it returns.

        Calls with numbers that are equal modulo `workers` come one after another, in their order. What one raises
        is raised here, when no other runs any more.
        """
        if self.workers == 1:
            for number in range(self._count):
                function(number)
            return
        share, ends = max(1, torch.get_num_threads() // self.workers), Event()
        inference = torch.is_inference_mode_enabled()

        def run(worker: int) -> None:
            with torch.inference_mode(inference), torch.no_grad():  # each thread has its own
                for number in range(worker, self._count, self.workers):
                    if ends.is_set():
                        return
                    try:
                        function(number)
                    except BaseException:
                        ends.set()
                        raise

        pool = _pool(self.workers, share)
        running = [pool.submit(run, worker) for worker in range(self.workers)]
        try:
            for future in running:
                future.result()
        finally:
            ends.set()
            wait(running)


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """One pool for the whole run: MKL keeps buffers for every thread that it ever saw."""
    return ThreadPoolExecutor(workers, "batch", _begin, (threads,))


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # else a thread takes the number at its first operation, and then the last that any set
