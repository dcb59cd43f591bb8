"""What columns that are still to come take over from the error of those that are rounded. Pure.

GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1) divides the error of column j by U[j, j] and spreads it over
the later columns with U[j, j+1:], where U is upper triangular and U'U = (H + damp I)^-1. The same follows
without the inverse (LDLQ, Chee et al., arXiv 2307.13304): with H + damp I = R R', R upper triangular, R = U^-1,
and E the columns' whole change so far, W - Q, a block b of columns is rounded as

    W_b + (E R[before, b]) U_b,        U_b = R_b^-1 the factor of the block itself

So one Cholesky factor is all that is computed of a Hessian (of the reversed matrix: with J the reversal,
J H J = L L' gives R = J L J), and what a block takes over is one product with a long inner dimension, which reads
the errors once and writes the block, instead of one that reads and writes all later columns after every block.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError

BLOCK = 128
"""Columns that are rounded at a time; also fixes which weights a dynamic group's grid is fitted to."""
FACTOR_BLOCK = 256
ROWS_AT_ONCE = 2048


class HessianFactor:
    """R upper triangular with R R' = H + d mean(diag H) I, for H in the order of the columns.

    Held as the Cholesky factor of the reversed matrix, J R J, in its lower triangle, so that one matrix beside H
    is all the memory that is needed; parts of R are turned around when they are used.
    """

    def __init__(self, reversed_factor: Tensor) -> None:
        self._lower, self._size = reversed_factor, reversed_factor.shape[0]

    def above(self, start: int, stop: int) -> Tensor:
        """R[:start, start:stop], a copy."""
        last = self._size
        return self._lower[last - start :, last - stop : last - start].flip(0, 1)

    def remaining(self, start: int, stop: int) -> Tensor:
        """R_b R_b' of a block: H of its columns when those after it make up for their error as well as they can."""
        last = self._size
        block = self._lower[last - stop : last - start, last - stop : last - start].tril()
        return (block @ block.t()).flip(0, 1)

    def conditional(self) -> Tensor:
        """The diagonal [K] of `remaining` of all blocks."""
        starts = range(0, self._size, BLOCK)
        blocks = [self.remaining(start, min(start + BLOCK, self._size)) for start in starts]
        return torch.cat([block.diagonal() for block in blocks])

    def inverse(self, start: int, stop: int) -> Tensor:
        """U[start:stop, start:stop], the inverse of R's diagonal block, upper triangular."""
        last = self._size
        block = self._lower[last - stop : last - start, last - stop : last - start]
        identity = torch.eye(stop - start, dtype=block.dtype, device=block.device)
        inverse: Tensor = torch.linalg.solve_triangular(block, identity, upper=False).flip(0, 1)
        return inverse


class ErrorFeedback:
    """The weights of a linear while its columns are rounded, block after block in their order.

    columns: [K, N] float32, the transposed weight in the order of the factor; it is used up: the rows of
        finished blocks become their errors.
    """

    def __init__(self, columns: Tensor, factor: HessianFactor) -> None:
        self._columns, self._factor = columns, factor

    def block(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The block's weights as they are to be rounded [columns, N], and its own factor U."""
        own = self._factor.inverse(start, stop)
        if start == 0:
            return self._columns[:stop].clone(), own
        taken_over = self._factor.above(start, stop).t() @ self._columns[:start]
        return self._columns[start:stop].addmm(own.t(), taken_over), own

    def remaining(self, start: int, stop: int) -> Tensor:
        """The Hessian of the block's columns, as HessianFactor.remaining has it."""
        return self._factor.remaining(start, stop)

    def finish(self, start: int, stop: int, read: Tensor) -> None:
        """The block is rounded; `read` [columns, N] is what a reader of its integers sees."""
        self._columns[start:stop].sub_(read)


def row_parts(weight: Tensor) -> Iterator[slice]:
    """The rows of a weight [N, K] in parts that are solved one after another; rows are independent.

    On a CPU what is computed of a block of columns then stays in the caches and in the C library's heap; a GPU
    takes all rows at once.
    """
    size = ROWS_AT_ONCE if weight.device.type == "cpu" else len(weight)
    for first in range(0, len(weight), size):
        yield slice(first, min(first + size, len(weight)))


def factor_hessian(hessian: Tensor, order: Tensor, damp_percent: float) -> tuple[HessianFactor, float]:
    """The factor of H [K, K] with its columns in `order`, and the d that was needed.

    d starts at damp_percent and is doubled, up to 1, while H is not positive definite in float32. A
    diagonal element of 0 (an input that was always zero) counts as 1.

    Raises:
        QuantizationError: NumericalFailure when d = 1 is not enough.
    """
    index = order.flip(0)
    percent = damp_percent
    while True:
        matrix = hessian[index.unsqueeze(1), index]
        diagonal = matrix.diagonal()
        diagonal[diagonal == 0] = 1.0
        diagonal.add_(percent * diagonal.mean())
        if cholesky_in_place(matrix):
            return HessianFactor(matrix), percent
        if percent >= 1.0:
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"the Hessian cannot be factored even with damp_percent {percent:g}",
            )
        percent = min(1.0, percent * 2)


def cholesky_in_place(matrix: Tensor) -> bool:
    """Puts the Cholesky factor of a symmetric matrix into its lower triangle; False when there is none.

    What stands above the diagonal is undefined then. By blocks of columns, each from those before it, because
    almost all of the work is then in matrix products, which run at twice the speed of LAPACK's routine here.
    """
    size = matrix.shape[0]
    for start in range(0, size, FACTOR_BLOCK):
        stop = min(start + FACTOR_BLOCK, size)
        panel = matrix[start:, start:stop]
        if start:
            panel.addmm_(matrix[start:, :start], matrix[start:stop, :start].t(), alpha=-1)
        top, info = torch.linalg.cholesky_ex(panel[: stop - start])
        if int(info) != 0 or not bool(torch.isfinite(top.diagonal()).all()):
            return False
        panel[: stop - start] = top
        if stop < size:
            identity = torch.eye(stop - start, dtype=matrix.dtype, device=matrix.device)
            inverse = torch.linalg.solve_triangular(top, identity, upper=False)
            panel[stop - start :] = panel[stop - start :] @ inverse.t()
    return True
