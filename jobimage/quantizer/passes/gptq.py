"""GPTQ (Frantar et al., arXiv 2210.17323): rounding with error feedback, on (weight, Hessian), free of I/O.

Columns are rounded one after another. The error of column j is divided by U[j, j] and spread over the
columns that are still to come with U[j, j+1:], where U is upper triangular and U'U = (H + damp I)^-1
(algorithm 1 of the paper). U comes from one Cholesky factor of the reversed matrix and one triangular
inverse: with J the reversal, J H J = L L', so H = R R' with R = J L J upper, and U = R^-1.

Rows are independent, so linears that share an input are stacked and solved at once. The working copy
lies transposed, [columns, rows], so that a column is contiguous. Blocks of 128 columns are followed by
one matrix product for the rest; a block itself is rounded by kernels.column_block.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.kernels.column_block import round_columns
from quantizer.passes.grid import GridRule, fit_grid

BLOCK = 128  # also fixes which weights a dynamic group's grid is fitted to: see _Solver.fit_groups
INVERSE_BLOCK = 256
BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class GptqConfig:
    """Parameters of GPTQ, in Olive's words and with Olive's defaults.

    group_size: input channels that share a scale; -1 is all of a row.
    damp_percent: share of the mean diagonal of H that is added to its diagonal.
    desc_act: columns in order of decreasing activation instead of as they lie.
    static_groups: all grids are fitted to the unrounded weights, before the first column.
    true_sequential: statistics of a stage come from the rounded stages before it (used by the streaming
        loop, not here).
    scale_dtype: see grid.GridRule.
    """

    bits: int = 4
    group_size: int = 128
    damp_percent: float = 0.01
    desc_act: bool = False
    static_groups: bool = False
    true_sequential: bool = False
    sym: bool = False
    scale_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise QuantizationError(
                Category.INVALID_WORKFLOW, f"bits is {self.bits}; it must be one of {BITS}"
            )
        if self.group_size != -1 and self.group_size < 1:
            raise QuantizationError(
                Category.INVALID_WORKFLOW, f"group_size is {self.group_size}; it must be -1 or positive"
            )
        if not 0 < self.damp_percent < 1:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"damp_percent is {self.damp_percent}; it must lie between 0 and 1, both excluded",
            )

    @property
    def rule(self) -> GridRule:
        """The grid of a group."""
        return GridRule(self.bits, self.sym, self.scale_dtype)

    def group_width(self, columns: int) -> int:
        """Columns of a group in a linear with that many columns."""
        return columns if self.group_size == -1 else self.group_size


@dataclass(frozen=True)
class Rounded:
    """A rounded weight [N, K], columns as they lie in the checkpoint.

    integers [N, K] uint8; scales, zeros [N, G] float32; group_of [K] int32, the group of each column;
    damp_percent: the damping that was used, larger than asked for when H was too close to singular.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    group_of: Tensor
    damp_percent: float


class InverseFactor:
    """U upper triangular with U'U = (H + d mean(diag H) I)^-1, for H in the order of the columns.

    Held as the lower triangular inverse of the reversed matrix's Cholesky factor, J U J, so that one
    matrix beside H is all the memory that is needed; blocks of U are turned around when they are used.
    """

    def __init__(self, reversed_inverse: Tensor) -> None:
        self._lower, self._size = reversed_inverse, reversed_inverse.shape[0]

    def block(self, rows: slice, columns: slice) -> Tensor:
        """U[rows, columns], a copy; both slices with start and stop."""
        last = self._size
        flipped = self._lower[
            last - rows.stop : last - rows.start, last - columns.stop : last - columns.start
        ]
        return flipped.flip(0, 1)


def factor_inverse(hessian: Tensor, order: Tensor, damp_percent: float) -> tuple[InverseFactor, float]:
    """The inverse factor of H with its columns in `order`, and the d that was needed.

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
        _, info = torch.linalg.cholesky_ex(matrix, out=(matrix, torch.empty((), dtype=torch.int32)))
        if int(info) == 0 and bool(torch.isfinite(matrix.diagonal()).all()):
            return InverseFactor(invert_lower(matrix)), percent
        if percent >= 1.0:
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"the Hessian cannot be factored even with damp_percent {percent:g}",
            )
        percent = min(1.0, percent * 2)


def invert_lower(matrix: Tensor) -> Tensor:
    """Inverts a lower triangular matrix in place, from the last block of columns to the first.

    With the trailing part already inverted, the block below a diagonal block D is -inverse(trailing) B inverse(D).
    """
    size = matrix.shape[0]
    for start in reversed(range(0, size, INVERSE_BLOCK)):
        end = min(start + INVERSE_BLOCK, size)
        identity = torch.eye(end - start, dtype=matrix.dtype, device=matrix.device)
        inverse = torch.linalg.solve_triangular(matrix[start:end, start:end], identity, upper=False)
        below = matrix[end:, end:] @ matrix[end:, start:end]
        matrix[end:, start:end] = -(below @ inverse)
        matrix[start:end, start:end] = inverse
    return matrix


class _Solver:
    """The state of one solve; `working` is the transposed, permuted copy of the weights [K, N]."""

    def __init__(self, weight: Tensor, order: Tensor, dead: Tensor, config: GptqConfig) -> None:
        rows, self.columns = weight.shape
        self.rule, self.width = config.rule, config.group_width(self.columns)
        self.working = weight.t().index_select(0, order)
        self.integers = torch.empty((self.columns, rows), dtype=torch.uint8, device=weight.device)
        groups = math.ceil(self.columns / self.width)
        self.scales = weight.new_empty((groups, rows))
        self.zeros = weight.new_empty((groups, rows))
        natural = torch.arange(self.columns, device=weight.device) // self.width
        self.dynamic = config.group_size != -1 and not config.static_groups
        self.group_of = natural if self.dynamic else natural[order]
        if config.group_size == -1:  # as in the reference, one grid for a row sees its dead columns too
            self._fit(weight.t(), 0)
        self.working[dead[order]] = 0.0
        if config.static_groups and config.group_size != -1:
            self._fit(weight.t().masked_fill(dead.unsqueeze(1), 0.0), 0)

    def _fit(self, columns: Tensor, first_group: int) -> None:
        grouped = columns.reshape(-1, self.width, columns.shape[1])
        last_group = first_group + grouped.shape[0]
        low, high = grouped.amin(1), grouped.amax(1)
        self.scales[first_group:last_group], self.zeros[first_group:last_group] = fit_grid(
            low, high, self.rule
        )

    def fit_groups(self, start: int, end: int) -> None:
        """Fits the grids of dynamic groups that begin in columns [start, end), a block.

        They see the weights as they are when the block begins: compensated for all blocks before, not
        for columns of this one. That is what the reference does, and it lets all of a block's groups be
        fitted at once.
        """
        first, last = math.ceil(start / self.width), math.ceil(end / self.width)
        if self.dynamic and first < last:
            self._fit(self.working[first * self.width : last * self.width], first)

    def round_block(self, start: int, end: int, factor: InverseFactor) -> Tensor:
        """Rounds columns [start, end); returns their errors, divided by the factor's diagonal: [columns, N]."""
        block, upper = slice(start, end), factor.block(slice(start, end), slice(start, end))
        self.integers[block], errors = round_columns(
            self.working[block], upper, self.scales, self.zeros, self.group_of[block], self.rule.maxq
        )
        return errors


def gptq(weight: Tensor, hessian: Tensor, config: GptqConfig) -> Rounded:
    """Rounds a weight [N, K] so that tr((W - Q) H (W - Q)') is small.

    Args:
        weight: one linear, or several that share their input, stacked by rows.
        hessian: H [K, K] float32; not changed.
        config: group_size must divide K.

    Raises:
        QuantizationError: NumericalFailure when H cannot be factored.
    """
    weight, columns = weight.float(), weight.shape[1]
    dead = hessian.diagonal() == 0  # inputs that were always zero: their weights are rounded to 0
    order = torch.arange(columns, device=weight.device)
    if config.desc_act:
        importance = hessian.diagonal().masked_fill(dead, 1.0)
        order = torch.argsort(importance, descending=True, stable=True)
    factor, damp_percent = factor_inverse(hessian, order, config.damp_percent)
    solver = _Solver(weight, order, dead, config)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        solver.fit_groups(start, end)
        errors = solver.round_block(start, end, factor)
        rest = factor.block(slice(start, end), slice(end, columns))
        solver.working[end:].addmm_(rest.t(), errors, alpha=-1)
    inverse = torch.argsort(order)
    return Rounded(
        solver.integers[inverse].t().contiguous(),
        solver.scales.t().contiguous(),
        solver.zeros.t().contiguous(),
        solver.group_of[inverse].to(torch.int32),
        damp_percent,
    )
