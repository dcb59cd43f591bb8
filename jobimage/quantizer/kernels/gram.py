"""The Gram matrix x' x of tokens, half of it computed: the product is symmetric.

Rows are taken in strips of 256; of strip i only the columns up to its own end are computed, so the work is
(1 + 256 / K) / 2 of the whole. Measured with one thread and 2,048 tokens the time falls 1.5 times for K = 768,
1.7 times for 2,048 and 1.8 times for 4,096, in products that are bound by arithmetic on a CPU. On other devices
nothing was measured, so there the whole product is made (the twin).
"""

import torch
from torch import Tensor

STRIP = 256


def add_gram(total: Tensor, x: Tensor) -> None:
    """Adds x' x to the lower triangle of a running sum; what stands above it is undefined until fill_upper.

    Args:
        total: [K, K] float32, changed in place.
        x: [tokens, K] float32.
    """
    if total.device.type != "cpu":
        add_gram_plain(total, x)
        return
    for start in range(0, total.shape[0], STRIP):
        end = min(start + STRIP, total.shape[0])
        total[start:end, :end].addmm_(x[:, start:end].t(), x[:, :end])


def add_gram_plain(total: Tensor, x: Tensor) -> None:
    """The twin: the whole product."""
    total.addmm_(x.t(), x)


def fill_upper(total: Tensor) -> None:
    """Mirrors the lower triangle of [K, K] in place: the matrix becomes symmetric to the last bit."""
    for start in range(0, total.shape[0], STRIP):
        end = min(start + STRIP, total.shape[0])
        total[:start, start:end] = total[start:end, :start].t()
        square = total[start:end, start:end]
        square.copy_(torch.tril(square) + torch.tril(square, -1).t())
