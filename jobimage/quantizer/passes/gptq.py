"""GPTQ (Frantar et al., arXiv 2210.17323): rounding with error feedback, on (weight, Hessian), free of I/O.

Columns are rounded one after another. The error of column j is divided by U[j, j] and spread over the
columns that are still to come with U[j, j+1:], where U is upper triangular and U'U = (H + damp I)^-1
(algorithm 1 of the paper). U comes from one Cholesky factor of the reversed matrix and one triangular
inverse: with J the reversal, J H J = L L', so H = R R' with R = J L J upper, and U = R^-1.

Rows are independent, so linears that share an input are stacked and solved at once. The working copy
lies transposed, [columns, rows], so that a column is contiguous. Blocks of 128 columns are followed by
one matrix product for the rest; inside a block, panels of 32 are treated the same way.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.passes.grid import GridRule, fit_grid, round_to_grid

BLOCK = 128  # also fixes which weights a dynamic group's grid is fitted to: see _Solver.fit_groups
PANEL = 32
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


def inverse_factor(hessian: Tensor, damp_percent: float) -> tuple[Tensor, float]:
    """U upper triangular with U'U = (H + d mean(diag H) I)^-1, and the d that was needed.

    d starts at damp_percent and is doubled, up to 1, while H is not positive definite in float32.

    Raises:
        QuantizationError: NumericalFailure when d = 1 is not enough.
    """
    mean = hessian.diagonal().mean()
    percent = damp_percent
    while True:
        reversed_matrix = hessian.flip(0, 1)
        reversed_matrix.diagonal().add_(percent * mean)
        lower, info = torch.linalg.cholesky_ex(reversed_matrix)
        if int(info) == 0 and bool(torch.isfinite(lower.diagonal()).all()):
            identity = torch.eye(hessian.shape[0], dtype=hessian.dtype, device=hessian.device)
            return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True), percent
        if percent >= 1.0:
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"the Hessian cannot be factored even with damp_percent {percent:g}",
            )
        percent = min(1.0, percent * 2)


class _Solver:
    """The state of one solve; `working` is the transposed, permuted copy of the weights [K, N]."""

    def __init__(self, weight: Tensor, order: Tensor, dead: Tensor, config: GptqConfig) -> None:
        rows, self.columns = weight.shape
        self.rule, self.width = config.rule, config.group_width(self.columns)
        self.working = weight.t()[order].clone()
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

    def round_block(self, start: int, end: int, factor: Tensor) -> Tensor:
        """Rounds columns [start, end); returns their errors, divided by the factor's diagonal: [columns, N]."""
        block, upper = self.working[start:end].clone(), factor[start:end, start:end]
        errors = torch.empty_like(block)
        groups = self.group_of[start:end].tolist()
        diagonal = upper.diagonal().tolist()
        for panel in range(0, end - start, PANEL):
            stop = min(panel + PANEL, end - start)
            for column in range(panel, stop):
                weight, group = block[column], groups[column]
                scale, zero = self.scales[group], self.zeros[group]
                integers = round_to_grid(weight, scale, zero, self.rule.maxq)
                self.integers[start + column] = integers
                error = (weight - (integers - zero) * scale).div_(diagonal[column])
                errors[column] = error
                if column + 1 < stop:
                    block[column + 1 : stop] -= upper[column, column + 1 : stop].unsqueeze(1) * error
            block[stop:] -= upper[panel:stop, stop:].t() @ errors[panel:stop]
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
    matrix, weight = hessian.clone(), weight.float()
    dead = matrix.diagonal() == 0  # inputs that were always zero: their weights are rounded to 0
    matrix.diagonal()[dead] = 1.0
    columns = weight.shape[1]
    order = torch.arange(columns, device=weight.device)
    if config.desc_act:
        order = torch.argsort(matrix.diagonal(), descending=True, stable=True)
        matrix = matrix[order][:, order]
    factor, damp_percent = inverse_factor(matrix, config.damp_percent)
    del matrix
    solver = _Solver(weight, order, dead, config)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        solver.fit_groups(start, end)
        errors = solver.round_block(start, end, factor)
        solver.working[end:] -= factor[start:end, end:].t() @ errors
    inverse = torch.argsort(order)
    return Rounded(
        solver.integers[inverse].t().contiguous(),
        solver.scales.t().contiguous(),
        solver.zeros.t().contiguous(),
        solver.group_of[inverse].to(torch.int32),
        damp_percent,
    )
