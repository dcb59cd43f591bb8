"""Grids: what a scale and a zero point must be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantizer.algorithms.grid import GridRule, fit_grid, round_to_grid
from quantizer.algorithms.quantized_weight import round_to_nearest

pytestmark = pytest.mark.unit

RULES = st.builds(
    GridRule,
    bits=st.sampled_from((2, 3, 4, 8)),
    sym=st.booleans(),
    scale_dtype=st.sampled_from((torch.float32, torch.float16)),
)


def random_groups(seed: int, magnitude: float, shift: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(5, 32, generator=generator) + shift) * magnitude


@given(
    RULES, st.integers(0, 99), st.sampled_from((1e-9, 1e-3, 1.0, 100.0)), st.sampled_from((-5.0, 0.0, 5.0))
)
def test_every_weight_is_at_most_one_step_from_its_grid_and_no_zero_point_wraps(
    rule: GridRule, seed: int, magnitude: float, shift: float
) -> None:
    weight = random_groups(seed, magnitude, shift)
    scale, zero = fit_grid(weight.amin(1), weight.amax(1), rule)
    assert bool((zero >= 1).all())
    assert bool((zero <= rule.maxq).all())
    assert bool((scale.half() > 0).all())
    integers = round_to_grid(weight, scale.unsqueeze(1), zero.unsqueeze(1), rule.maxq)
    error = (weight - (integers - zero.unsqueeze(1)) * scale.unsqueeze(1)).abs()
    assert bool((error <= scale.unsqueeze(1) * 1.01).all())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_without_a_negative_one_get_zero_point_one_and_keep_their_largest(bits: int) -> None:
    weight = torch.linspace(0.0, 1.0, 32).unsqueeze(0)
    scale, zero = fit_grid(weight.amin(1), weight.amax(1), GridRule(bits, sym=False))
    assert zero.tolist() == [1.0]
    assert (2**bits - 1 - 1) * float(scale) == pytest.approx(1.0, rel=1e-5)


def test_symmetric_weights_without_a_negative_one_are_not_clipped_to_half() -> None:
    weight = torch.linspace(0.0, 1.0, 32).unsqueeze(0)
    scale, zero = fit_grid(weight.amin(1), weight.amax(1), GridRule(4, sym=True))
    assert float((15 - zero) * scale) == pytest.approx(14 / 15, rel=1e-3)


def test_a_group_of_zeros_is_exact() -> None:
    rtn = round_to_nearest(torch.zeros(3, 64), 32, GridRule(4, sym=False))
    assert torch.equal(rtn.dequantized(), torch.zeros(3, 64))


def test_rtn_uses_the_grid_of_each_columns_own_group() -> None:
    weight = torch.cat([random_groups(0, 1.0, 0.0), random_groups(1, 0.01, 0.0)], dim=1)
    rtn = round_to_nearest(weight, 32, GridRule(8, sym=False))
    back = rtn.dequantized()
    assert float((back - weight)[:, :32].abs().max()) < 0.02
    assert float((back - weight)[:, 32:].abs().max()) < 0.0002
