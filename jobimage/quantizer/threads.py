"""How many of torch's threads a part of a run uses, on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL = 2**20
"""Numbers of a weight that is solved in one thread. Its operations are so short that waking a second thread takes
longer than its share: weights of the example (288 x 288 to 1,536 x 288) took 1.15 to 1.9 times as long with two
threads as with one, 1,024 x 1,024 1.2 times, 2,048 x 1,024 the same, 2,048 x 2,048 0.8 times."""


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """As many threads as are worth waking to solve a weight of so many numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if numbers <= SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
