"""The grid of AWQ, rounding to it, and the group sizes that are refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.awq.rounding import AwqConfig, awq_round
from quantizer.algorithms.grid import dequantize
from quantizer.algorithms.quantized_weight import QuantizedWeight

pytestmark = pytest.mark.unit

CONFIGS = st.builds(
    AwqConfig,
    bits=st.sampled_from((2, 3, 4, 8)),
    group_size=st.sampled_from((32, -1)),
    zero_point=st.booleans(),
    scale_dtype=st.sampled_from((torch.float32, torch.float16)),
)


def random_weight(seed: int, shift: float = 0.0) -> Tensor:
    return (torch.randn(6, 96, generator=torch.Generator().manual_seed(seed)) + shift) * 0.05


def read(rounded: QuantizedWeight) -> Tensor:
    return dequantize(rounded.integers, rounded.scales, rounded.zeros, rounded.g_idx)


@given(CONFIGS, st.integers(0, 99), st.sampled_from((-5.0, 0.0, 5.0)))
def test_every_weight_is_at_most_one_step_from_its_value_and_integers_fit_the_bits(
    config: AwqConfig, seed: int, shift: float
) -> None:
    weight = random_weight(seed, shift)
    rounded = awq_round(weight, config)
    step = rounded.scales[:, rounded.g_idx.long()]
    assert bool(((read(rounded) - weight).abs() <= step * 1.01).all())
    assert int(rounded.integers.max()) <= config.maxq
    assert bool(((rounded.zeros >= 0) & (rounded.zeros <= config.maxq)).all())


def test_asymmetric_grids_span_the_minimum_and_maximum_of_their_group() -> None:
    weight = random_weight(0)
    rounded = awq_round(weight, AwqConfig(group_size=32, scale_dtype=torch.float32))
    groups = weight.view(6, 3, 32)
    low, high = groups.amin(-1), groups.amax(-1)
    assert torch.allclose(rounded.scales, (high - low) / 15)
    assert torch.equal(rounded.zeros, (-low / rounded.scales).round())


def test_symmetric_grids_have_their_zero_in_the_middle_and_keep_the_largest_magnitude() -> None:
    weight = random_weight(0)
    rounded = awq_round(weight, AwqConfig(group_size=32, zero_point=False, scale_dtype=torch.float32))
    assert torch.allclose(rounded.scales, weight.view(6, 3, 32).abs().amax(-1) / 7)
    assert torch.equal(rounded.zeros, torch.full((6, 3), 8.0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_group_with_weights_on_one_side_of_zero_only_is_not_clipped(sign: float) -> None:
    weight = sign * torch.linspace(1.0, 1.1, 32).unsqueeze(0)
    back = read(awq_round(weight, AwqConfig(group_size=32)))
    assert float((back - weight).abs().max()) < 1.1 / 15


def test_a_group_of_zeros_is_exact() -> None:
    weight = torch.zeros(2, 64)
    assert torch.equal(read(awq_round(weight, AwqConfig(group_size=32))), weight)


def test_limits_cut_only_the_magnitudes_above_them_in_their_own_group() -> None:
    weight = random_weight(1)
    limits = weight.view(6, 3, 32).abs().amax(-1)
    limits[:, 1] *= 0.5
    config = AwqConfig(bits=8, group_size=32)
    cut, plain = read(awq_round(weight, config, limits)), read(awq_round(weight, config))
    assert torch.equal(cut[:, :32], plain[:, :32])
    assert torch.equal(cut[:, 64:], plain[:, 64:])
    wanted = torch.minimum(weight[:, 32:64].abs(), limits[:, 1:2]) * weight[:, 32:64].sign()
    assert torch.allclose(cut[:, 32:64], wanted, atol=1e-3)


def test_a_group_size_of_minus_one_gives_one_grid_for_a_row() -> None:
    rounded = awq_round(random_weight(2), AwqConfig(group_size=-1))
    assert rounded.scales.shape == (6, 1)
    assert rounded.g_idx.tolist() == [0] * 96


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7])
def test_a_weight_that_no_stored_scale_can_hold_is_a_numerical_failure(value: float) -> None:
    weight = random_weight(3)
    weight[2, 5] = value
    with pytest.raises(QuantizationError, match="not finite, or too large") as caught:
        awq_round(weight, AwqConfig(group_size=32))
    assert caught.value.category is Category.NUMERICAL_FAILURE


def test_a_group_size_that_does_not_divide_the_inputs_is_refused() -> None:
    with pytest.raises(QuantizationError, match="q_group_size 64 does not divide 96") as caught:
        awq_round(random_weight(0), AwqConfig(group_size=64))
    assert caught.value.category is Category.INVALID_WORKFLOW
