"""GPTQ against a slow, plain form of the paper's algorithm 1, and its refusals."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.feedback import BLOCK, cholesky_in_place, factor_hessian
from quantizer.algorithms.gptq.solver import gptq
from quantizer.algorithms.grid import dequantize, fit_grid, round_to_grid
from quantizer.algorithms.hessian import GramMatrix, weighted_square
from quantizer.algorithms.quantized_weight import round_to_nearest

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def problem(rows: int, columns: int, seed: int = 0, shared: float = 0.0) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of correlated inputs; `shared` adds eight directions that all inputs share."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * 0.05
    inputs = torch.randn(1, 4 * columns, columns, generator=generator)
    inputs = inputs @ (torch.eye(columns) + 0.1 * torch.randn(columns, columns, generator=generator))
    few = torch.randn(1, 4 * columns, 8, generator=generator)
    inputs = inputs + shared * few @ torch.randn(8, columns, generator=generator)
    gram = GramMatrix(columns, CPU)
    gram.add(inputs * torch.logspace(-0.5, 0.5, columns))
    return weight, gram.hessian()


@dataclass(frozen=True)
class Plain:
    """What the plain algorithm makes: integers and weights [N, K] as they lie, and, in the order of the
    solve, each weight divided by its scale just before it was rounded."""

    integers: Tensor
    weight: Tensor
    order: Tensor
    before_rounding: Tensor

    def departures(self, integers: Tensor) -> list[float]:
        """For each row with other integers: how far from a tie (a half) the first weight was that differs."""
        differs = (integers != self.integers)[:, self.order]
        rows = differs.any(dim=1).nonzero().flatten().tolist()
        firsts = [int(differs[row].nonzero()[0]) for row in rows]
        values = [float(self.before_rounding[row, first]) for row, first in zip(rows, firsts, strict=True)]
        return [abs(value - math.floor(value) - 0.5) for value in values]


def plain_gptq(weight: Tensor, hessian: Tensor, config: GptqConfig) -> Plain:
    """The paper's algorithm 1: float64, one column after another, the inverse by torch.inverse."""
    columns = weight.shape[1]
    width = config.group_width(columns)
    order = torch.arange(columns)
    if config.desc_act:
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    damped = hessian.double() + config.damp_percent * hessian.diagonal().double().mean() * torch.eye(columns)
    inverse = torch.inverse(damped[order][:, order])
    upper = torch.linalg.cholesky(inverse, upper=True)
    work = weight[:, order].double().clone()
    at_block_start = work.clone()
    static = round_to_nearest(weight, width, config.rule)
    integers, result, before = (torch.zeros_like(work) for _ in range(3))
    for column in range(columns):
        if column % BLOCK == 0:
            at_block_start = work.clone()
        if config.static_groups or config.group_size == -1:
            group = int(order[column]) // width
            scale, zero = static.scales[:, group], static.zeros[:, group]
        elif column % width == 0:
            part = at_block_start[:, column : column + width].float()
            scale, zero = fit_grid(part.amin(1), part.amax(1), config.rule)
        before[:, column] = work[:, column] / scale
        integers[:, column] = round_to_grid(work[:, column].float(), scale, zero, config.rule.maxq)
        result[:, column] = (integers[:, column] - zero) * scale
        error = (work[:, column] - result[:, column]) / upper[column, column]
        work[:, column:] -= error.unsqueeze(1) * upper[column, column:]
    back = torch.argsort(order)
    return Plain(integers[:, back].to(torch.uint8), result[:, back].float(), order, before)


CASES: list[dict[str, Any]] = [
    {"bits": bits, "group_size": group_size, "sym": sym, "desc_act": desc_act, "static_groups": static_groups}
    for bits, group_size, sym, desc_act, static_groups in product(
        (2, 3, 4, 8), (32, -1), (False, True), (False, True), (False, True)
    )
]
LARGE_GROUPS: list[dict[str, Any]] = [{"group_size": 192}, {"group_size": 48, "desc_act": True}]


@pytest.mark.parametrize("parameters", [*CASES, *LARGE_GROUPS], ids=str)
def test_integers_are_those_of_the_plain_algorithm(parameters: dict[str, Any]) -> None:
    weight, hessian = problem(24, 192)
    config = GptqConfig(**parameters)
    ours = gptq(weight, hessian, config)[0]
    plain = plain_gptq(weight, hessian, config)
    departures = plain.departures(ours.integers)
    assert len(departures) <= 1  # a row that rounds one tie the other way goes its own way from there
    assert all(distance < 2e-6 for distance in departures)  # of a step: float32's last digit
    same = (ours.integers == plain.integers).all(dim=1)
    back = dequantize(ours.integers, ours.scales, ours.zeros, ours.g_idx)
    assert torch.allclose(back[same], plain.weight[same], atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_weighted_error_is_well_below_that_of_rtn(bits: int) -> None:
    weight, hessian = problem(64, 256, shared=1.0)
    config = GptqConfig(bits=bits, group_size=64)
    ours = gptq(weight, hessian, config)[0]
    nearest = round_to_nearest(weight, 64, config.rule).dequantized()
    error = weighted_square(weight - dequantize(ours.integers, ours.scales, ours.zeros, ours.g_idx), hessian)
    assert float(error.sum()) < 0.75 * float(weighted_square(weight - nearest, hessian).sum())


def test_two_solves_are_the_same_bit_by_bit_and_leave_their_input_alone() -> None:
    weight, hessian = problem(32, 160)
    kept = weight.clone(), hessian.clone()
    one, two = (gptq(weight, hessian, GptqConfig(group_size=32, desc_act=True))[0] for _ in range(2))
    for name in ("integers", "scales", "zeros", "g_idx"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert torch.equal(weight, kept[0])
    assert torch.equal(hessian, kept[1])


def test_linears_solved_together_get_what_they_get_alone() -> None:
    weight, hessian = problem(48, 160)
    config = GptqConfig(group_size=32)
    together = gptq(weight, hessian, config)[0].integers
    apart = torch.cat([gptq(part, hessian, config)[0].integers for part in weight.split(16)])
    assert float((together != apart).float().mean()) <= 1e-3  # products of other shapes sum in another order


def test_a_column_that_is_always_zero_becomes_zero() -> None:
    weight, hessian = problem(16, 64)
    hessian[5, :] = hessian[:, 5] = 0.0
    ours = gptq(weight, hessian, GptqConfig(group_size=32))[0]
    back = dequantize(ours.integers, ours.scales, ours.zeros, ours.g_idx)
    assert torch.equal(back[:, 5], torch.zeros(16))


def test_damping_rises_until_the_factor_exists_and_is_recorded() -> None:
    inputs = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(0)) * 100
    gram = GramMatrix(64, CPU)
    gram.add(inputs)  # rank 8 of 64
    _, used = factor_hessian(gram.hessian(), torch.arange(64), 1e-12)
    assert used > 1e-12
    assert factor_hessian(problem(8, 64)[1], torch.arange(64), 0.01)[1] == 0.01


def test_a_hessian_that_no_damping_mends_is_a_numerical_failure() -> None:
    with pytest.raises(QuantizationError, match="cannot be factored") as caught:
        factor_hessian(torch.diag(torch.tensor([4.0, -3.0])), torch.arange(2), 0.01)
    assert caught.value.category is Category.NUMERICAL_FAILURE


def test_the_factor_is_that_of_the_hessian_in_any_order() -> None:
    _, hessian = problem(8, 64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    factor, used = factor_hessian(hessian, order, 0.01)
    own = factor.inverse(0, 64)
    damped = (hessian + used * hessian.diagonal().mean() * torch.eye(64))[order][:, order]
    assert torch.equal(own, own.triu())
    assert torch.allclose(own.t() @ own @ damped, torch.eye(64), atol=1e-4)
    whole = torch.linalg.inv(own.double())
    assert torch.allclose(factor.above(9, 40).double(), whole[:9, 9:40], atol=1e-4)
    assert torch.allclose(factor.inverse(5, 20) @ whole[5:20, 5:20].float(), torch.eye(15), atol=1e-4)


@pytest.mark.parametrize("size", [1, 255, 256, 600])
def test_a_matrix_is_factored_in_place(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = (torch.randn(size, size, generator=generator) * 0.02).tril() + torch.eye(size)
    matrix = wanted @ wanted.t()
    assert cholesky_in_place(matrix)
    assert torch.allclose(matrix.tril(), wanted, atol=1e-5)


@pytest.mark.parametrize("bad", [0, 300])
def test_a_matrix_without_a_factor_is_told(bad: int) -> None:
    matrix = torch.eye(400)
    matrix[bad, bad] = -1.0
    assert not cholesky_in_place(matrix)
    matrix = torch.eye(400)
    matrix[bad, bad] = torch.nan
    assert not cholesky_in_place(matrix)


def test_the_gram_matrix_does_not_depend_on_how_batches_are_cut() -> None:
    inputs = torch.randn(8, 16, 32, generator=torch.Generator().manual_seed(0))
    whole, parts = GramMatrix(32, CPU), GramMatrix(32, CPU)
    whole.add(inputs)
    for part in inputs.split(3):
        parts.add(part)
    flat = inputs.reshape(-1, 32).double()
    exact = (2 / 8) * flat.t() @ flat
    assert torch.allclose(whole.hessian().double(), exact, atol=1e-4)
    assert torch.allclose(parts.hessian().double(), exact, atol=1e-4)
