"""What is done beyond GPTQ at the same format: searched grids, and coordinate descent when all integers are known."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.quantizer.algorithms.test_gptq_solver import problem
from tests.unit.quantizer.algorithms.test_scale_refit import DAMPING, damped, errors
from torch import Tensor

from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.descent import descend
from quantizer.algorithms.gptq.feedback import BLOCK, factor_hessian
from quantizer.algorithms.gptq.grid_search import RATIOS, search_grid
from quantizer.algorithms.gptq.grids import Grids
from quantizer.algorithms.gptq.scale_refit import refit_scales
from quantizer.algorithms.gptq.solver import gptq
from quantizer.algorithms.grid import GridRule, fit_grid, round_to_grid
from quantizer.algorithms.hessian import damping_of
from quantizer.algorithms.quantized_weight import QuantizedWeight, round_to_nearest

pytestmark = pytest.mark.unit


def cost(columns: Tensor, importance: Tensor, scale: Tensor, zero: Tensor, rule: GridRule) -> Tensor:
    """Of RTN of one group [W, N], in float64."""
    read = (round_to_grid(columns, scale, zero, rule.maxq) - zero) * scale
    return ((read - columns).double().square() * importance.double().unsqueeze(1)).sum(0)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("sym", [False, True])
def test_no_shrunk_range_is_better_than_the_grid_that_was_found(bits: int, sym: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    columns, importance = torch.randn(3, 32, 40, generator=generator), torch.rand(3, 32, generator=generator)
    rule = GridRule(bits, sym)
    scales, zeros = search_grid(columns, importance, rule)
    shrunk = 0
    for group in range(3):
        own = columns[group], importance[group]
        found = cost(*own, scales[group], zeros[group], rule)
        low, high = own[0].amin(0), own[0].amax(0)
        for ratio in RATIOS:
            assert bool(
                (found <= cost(*own, *fit_grid(low * ratio, high * ratio, rule), rule) * (1 + 1e-5)).all()
            )
        shrunk += int((scales[group] < fit_grid(low, high, rule)[0]).sum())
    assert shrunk > 60  # of 120


def test_a_column_that_counts_for_nothing_is_given_up() -> None:
    columns = torch.full((1, 32, 1), 0.1)
    columns[0, 0] = 1.0
    importance = torch.ones(1, 32)
    rule = GridRule(2, sym=True)
    whole = search_grid(columns, importance, rule)[0]
    importance[0, 0] = 0.0
    assert float(search_grid(columns, importance, rule)[0]) < float(whole)


@pytest.mark.parametrize("sym", [False, True])
def test_groups_of_zeros_keep_a_grid(sym: bool) -> None:
    scales, zeros = search_grid(torch.zeros(2, 16, 4), torch.ones(2, 16), GridRule(4, sym))
    expected = fit_grid(torch.zeros(2, 4), torch.zeros(2, 4), GridRule(4, sym))
    assert torch.equal(scales, expected[0])
    assert torch.equal(zeros, expected[1])


def plain_descent(weight: Tensor, hessian: Tensor, start: QuantizedWeight, rounds: int) -> Tensor:
    """Integers [N, K] after rounds over the columns as they lie, grids fixed: float64, one column after another."""
    maxq = 15
    matrix = damped(hessian, DAMPING).double()
    index = start.g_idx.long()
    scales, zeros = start.scales.double()[:, index], start.zeros.double()[:, index]
    integers = start.integers.double()
    for _ in range(rounds):
        for column in range(weight.shape[1]):
            change = weight.double() - (integers - zeros) * scales
            best = (integers - zeros)[:, column] * scales[:, column]
            best = best + (change @ matrix[:, column]) / matrix[column, column]
            integers[:, column] = round_to_grid(best, scales[:, column], zeros[:, column], maxq)
    return integers.to(torch.uint8)


@pytest.mark.parametrize("group_size", [192, -1])
def test_integers_are_those_of_the_plain_descent(group_size: int) -> None:
    """Where no scale is fitted in between; the second round over blocks begins after the first."""
    weight, hessian = problem(24, 384)
    config = GptqConfig(group_size=group_size, refine=True)
    start = round_to_nearest(weight, group_size, config.rule)
    grids = Grids(weight, torch.arange(384), torch.zeros(384, dtype=torch.bool), config, None)
    grids.scales, grids.zeros = start.scales.t().contiguous(), start.zeros.t().contiguous()
    change, integers = (weight - start.dequantized()).t().contiguous(), start.integers.t().contiguous()
    descend(change, integers, grids, hessian, damping_of(hessian, DAMPING))
    expected = plain_descent(weight, hessian, start, rounds=2)
    assert float((integers.t() != expected).float().mean()) < 2e-3  # ties
    assert float((integers.t() != start.integers).float().mean()) > 0.05
    now = replace(start, integers=integers.t())
    assert torch.allclose(change.t(), weight - now.dequantized(), atol=1e-6)


CASES: list[dict[str, Any]] = [
    {"group_size": 32},
    {"group_size": 48},
    {"group_size": 192},
    {"group_size": -1},
    {"group_size": 32, "desc_act": True},
    {"group_size": 32, "static_groups": True},
    {"group_size": 32, "desc_act": True, "static_groups": True},
]


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_error_is_below_that_of_gptq_with_scales_fitted_at_the_end(
    case: dict[str, Any], sym: bool, bits: int
) -> None:
    share = 0.99 if case.get("desc_act") else 0.95  # the order of activations leaves less to gain
    weight, hessian = problem(64, 384)
    config = GptqConfig(bits=bits, sym=sym, **case)
    plain = gptq(weight, hessian, config)[0]
    fitted = errors(weight, hessian, refit_scales(weight, hessian, plain, DAMPING)).sum()
    refined = gptq(weight, hessian, replace(config, refine=True))[0]
    assert float(errors(weight, hessian, refined).sum()) < share * float(fitted)
    assert int(refined.integers.max()) <= config.rule.maxq
    assert torch.equal(refined.g_idx, plain.g_idx)


def test_what_is_left_conditionally_is_the_blocks_part_of_the_inverse() -> None:
    """The Schur complement: the inverse of the inverse's diagonal block of this block and those after it."""
    _, hessian = problem(4, 2 * BLOCK + 40)
    factor, percent = factor_hessian(hessian, torch.arange(len(hessian)), DAMPING)
    matrix = damped(hessian, percent).double()
    found = factor.conditional()
    for start in (0, BLOCK, 2 * BLOCK):
        stop = min(start + BLOCK, len(hessian))
        own, later = slice(start, stop), slice(stop, None)
        cross = matrix[own, later]
        left = matrix[own, own] - cross @ torch.linalg.solve(matrix[later, later], cross.t())
        assert torch.allclose(found[own].double(), left.diagonal(), rtol=1e-3)


def test_scales_of_a_narrower_type_are_of_it_whatever_was_fitted() -> None:
    weight, hessian = problem(8, 256)
    config = GptqConfig(group_size=64, refine=True, scale_dtype=torch.float16)
    fitted = gptq(weight, hessian, config)[0]
    assert torch.equal(fitted.scales, fitted.scales.half().float())


def test_a_column_that_is_always_zero_stays_zero() -> None:
    weight, hessian = problem(16, 64)
    hessian[5, :] = hessian[:, 5] = 0.0
    found = gptq(weight, hessian, GptqConfig(group_size=32, refine=True))[0]
    assert torch.equal(found.dequantized()[:, 5], torch.zeros(16))
