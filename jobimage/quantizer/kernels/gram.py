"""The Gram matrix x' x of tokens, half of it computed: the product is symmetric.

Rows are taken in strips; of strip i only the columns up to its own end are computed, so with strips of S rows the
work is (1 + S / K) / 2 of the whole. Narrow strips save more and are the slower products: of 48 to 256 rows those
of about K / 6 were the fastest, within noise, for K = 288, 768 and 2,048. Measured with one thread the time falls
1.4 times for K = 288 and 1.6 times for 768 and 2,048; with strips of 256 rows it fell 1.8 times for 4,096. On other
devices nothing was measured, so there the whole product is made (the twin).
"""

import torch
from torch import Tensor

NARROWEST, WIDEST = 96, 256  # rows of a strip


def strip_rows(width: int) -> int:
    """Rows of a strip of a [width, width] matrix: a sixth of it within bounds, in whole vectors of 16."""
    return min(max(NARROWEST, width // 6 // 16 * 16), WIDEST)


def add_gram(total: Tensor, x: Tensor) -> None:
    """Adds x' x to the lower triangle of a running sum; what stands above it is undefined until fill_upper.

    Args:
        total: [K, K] float32, changed in place.
        x: [tokens, K] float32.
    """
    if total.device.type != "cpu":
        add_gram_plain(total, x)
        return
    rows = strip_rows(total.shape[0])
    for start in range(0, total.shape[0], rows):
        end = min(start + rows, total.shape[0])
        total[start:end, :end].addmm_(x[:, start:end].t(), x[:, :end])


def add_gram_plain(total: Tensor, x: Tensor) -> None:
    """The twin: the whole product."""
    total.addmm_(x.t(), x)


def fill_upper(total: Tensor) -> None:
    """Mirrors the lower triangle of [K, K] in place: the matrix becomes symmetric to the last bit."""
    for start in range(0, total.shape[0], WIDEST):
        end = min(start + WIDEST, total.shape[0])
        total[:start, start:end] = total[start:end, :start].t()
        square = total[start:end, start:end]
        square.copy_(torch.tril(square) + torch.tril(square, -1).t())
