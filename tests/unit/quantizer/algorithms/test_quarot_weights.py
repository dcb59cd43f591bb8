"""Rounding of QuaRot's weights: GPTQ and nearest, refitted scales, scales of few bits, online rotations."""

import itertools
from typing import Any

import pytest
import torch
from tests.support.engine import tiny_config
from torch import Tensor

from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.solver import gptq
from quantizer.algorithms.hessian import weighted_square
from quantizer.algorithms.quantized_weight import round_to_nearest
from quantizer.algorithms.quarot.hadamard import Rotation
from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.algorithms.quarot.rotation import rotate_hessian, rotate_input
from quantizer.algorithms.quarot.rotation_layout import llama_layout
from quantizer.algorithms.quarot.stages import QuarotPass
from quantizer.algorithms.quarot.weights import WeightRule, gptq_on_grid, round_weights

pytestmark = pytest.mark.unit

ROWS, COLUMNS = 48, 192


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * 0.05
    inputs = torch.randn(4 * COLUMNS, COLUMNS, generator=generator)
    inputs = inputs @ (torch.eye(COLUMNS) + 0.1 * torch.randn(COLUMNS, COLUMNS, generator=generator))
    inputs = inputs + torch.randn(4 * COLUMNS, 6, generator=generator) @ torch.randn(
        6, COLUMNS, generator=generator
    )
    return weight, inputs.t() @ inputs / len(inputs)


def error(weight: Tensor, hessian: Tensor, **rule: Any) -> float:
    rounded = round_weights([weight], hessian, WeightRule(**rule))[0][0]
    return float(weighted_square(weight - rounded.dequantized(), hessian).sum())


@pytest.mark.parametrize(
    ("bits", "group_size", "asym"), list(itertools.product((2, 4), (-1, 32), (False, True)))
)
def test_plain_w_gptq_gives_the_integers_of_the_gptq_pass(bits: int, group_size: int, asym: bool) -> None:
    weight, hessian = problem()
    ours = round_weights([weight], hessian, WeightRule("gptq", bits, asym, group_size))[0][0]
    config = GptqConfig(bits=bits, group_size=group_size, sym=not asym, scale_dtype=torch.float16)
    theirs = gptq(weight, hessian, config)[0]
    assert torch.equal(ours.integers, theirs.integers)
    assert torch.equal(ours.scales, theirs.scales)


def test_w_rtn_rounds_to_the_nearest_and_needs_no_hessian() -> None:
    weight, _ = problem()
    rule = WeightRule("rtn", 4, True, 32)
    ours = round_weights([weight], None, rule)[0][0]
    rtn = round_to_nearest(weight, 32, rule.grid)
    for name in ("integers", "scales", "zeros", "g_idx"):
        assert torch.equal(getattr(ours, name), getattr(rtn, name))


@pytest.mark.parametrize(("bits", "group_size"), list(itertools.product((3, 4), (-1, 32))))
def test_refitted_scales_take_a_tenth_off_gptqs_error(bits: int, group_size: int) -> None:
    weight, hessian = problem()
    common = {"method": "gptq", "bits": bits, "group_size": group_size}
    assert error(weight, hessian, **common, opt_scales=True) < 0.9 * error(weight, hessian, **common)


def test_a_fixed_grid_solve_is_gptq_with_static_groups() -> None:
    weight, hessian = problem()
    config = GptqConfig(bits=4, group_size=32, sym=True, static_groups=True, scale_dtype=torch.float16)
    theirs, damping = gptq(weight, hessian, config)
    rule = WeightRule("gptq", 4, group_size=32)
    ours, damp = gptq_on_grid(weight, hessian, theirs.scales, theirs.zeros, theirs.g_idx, rule)
    assert damp == damping
    assert float((ours != theirs.integers).float().mean()) <= 2e-3  # sums in another order


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("group_size", [-1, 32])
def test_scales_of_eight_bits_cost_little_and_those_of_four_more(method: str, group_size: int) -> None:
    weight, hessian = problem()
    common = {"method": method, "bits": 4, "group_size": group_size}
    full = error(weight, hessian, **common)
    eight, four = (error(weight, hessian, **common, scale_bits=bits) for bits in (8, 4))
    assert eight < 1.05 * full
    assert eight < four


def test_scales_of_few_bits_are_codes_times_one_unit_for_a_linear() -> None:
    weight, hessian = problem()
    parts = [weight, 3.0 * weight]
    (first, second), _ = round_weights(parts, hessian, WeightRule("gptq", 4, group_size=32, scale_bits=6))
    units = []
    for part in (first, second):
        units.append(float(part.scales.max()) / 63)
        codes = part.scales / units[-1]
        assert torch.allclose(codes, codes.round(), atol=1e-3)
        assert int(codes.round().min()) >= 1
    assert units[1] > 2 * units[0]


def test_linears_rounded_together_get_what_they_get_alone() -> None:
    weight, hessian = problem()
    rule = WeightRule("gptq", 4, group_size=32, opt_scales=True)
    together, _ = round_weights([weight[:16], weight[16:]], hessian, rule)
    alone = [round_weights([part], hessian, rule)[0][0] for part in (weight[:16], weight[16:])]
    for one, other in zip(together, alone, strict=True):
        assert float((one.integers != other.integers).float().mean()) <= 1e-3


def quarot_pass(**changes: Any) -> QuarotPass:
    return QuarotPass(QuarotParameters(**changes), llama_layout(tiny_config().to_dict()))


def test_an_online_site_is_rounded_in_its_rotated_input_and_propagated_in_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    run = quarot_pass(a_bits=8, w_bits=4, w_gptq=True)
    weight = torch.randn(64, 128, generator=generator)
    x = torch.randn(512, 128, generator=generator)
    x[:, 7] *= 40.0
    hessian = x.t() @ x / 512
    result = run.round_stage(["mlp.down_proj"], {"mlp.down_proj.weight": weight}, hessian)["mlp.down_proj"]
    online = Rotation(128, run.sites["down"])
    assert result.quantized is not None
    (expected,), _ = round_weights(
        [rotate_input(weight, online)], rotate_hessian(hessian, online), run.parameters.weight_rule
    )
    assert torch.equal(result.quantized.integers, expected.integers)
    assert torch.allclose(
        x @ result.propagated.t(), online.apply(x) @ result.quantized.dequantized().t(), atol=1e-2
    )
    assert result.error is not None
    assert result.error_rtn is not None
    seen = float(
        weighted_square(weight - result.propagated, hessian).sum() / weighted_square(weight, hessian).sum()
    )
    assert result.error == pytest.approx(seen, rel=1e-2)
    assert result.error < result.error_rtn


def test_the_heads_rotation_leaves_each_heads_channels_apart() -> None:
    run = quarot_pass(a_bits=8)
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    weight.view(64, 4, 16)[:, :, 1:] = 0.0
    result = run.round_stage(["self_attn.o_proj"], {"self_attn.o_proj.weight": weight}, None)[
        "self_attn.o_proj"
    ]
    assert result.stored is not None
    assert float(result.stored.view(64, 4, 16)[:, :, 1:].abs().max()) == 0.0
    assert not torch.allclose(result.stored, weight, atol=1e-2)
    assert torch.equal(result.propagated, weight)


def test_a_linear_without_an_online_site_is_stored_as_it_is() -> None:
    run = quarot_pass(a_bits=8)
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    result = run.round_stage(["self_attn.q_proj"], {"self_attn.q_proj.weight": weight}, None)[
        "self_attn.q_proj"
    ]
    assert result.stored is not None
    assert torch.equal(result.stored, weight)


def test_linears_that_do_not_share_an_input_are_refused() -> None:
    run = quarot_pass(a_bits=8)
    with pytest.raises(ValueError, match="do not share an input"):
        run.round_stage(["mlp.up_proj", "mlp.down_proj"], {}, None)
