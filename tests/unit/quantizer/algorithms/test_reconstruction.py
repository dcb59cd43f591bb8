"""Rounding that is learned, and weights that make up for what was rounded before them."""

import pytest
import torch
from tests.unit.quantizer.algorithms.test_gptq_solver import problem
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.gptq import drift as drift_module
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.drift import DriftSum, compensated
from quantizer.algorithms.gptq.solver import gptq
from quantizer.algorithms.hessian import GramMatrix
from quantizer.algorithms.quantized_weight import round_to_nearest
from quantizer.algorithms.reconstruction import LearnedRounding

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def start(weight: Tensor, config: GptqConfig, hessian: Tensor) -> LearnedRounding:
    return LearnedRounding(weight, gptq(weight, hessian, config)[0], config.rule)


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("desc_act", [False, True])
def test_it_begins_with_what_the_solver_found(desc_act: bool, sym: bool) -> None:
    weight, hessian = problem(16, 96)
    config = GptqConfig(group_size=32, sym=sym, desc_act=desc_act, refine=True)
    solved = gptq(weight, hessian, config)[0]
    learned = LearnedRounding(weight, solved, config.rule)
    assert torch.equal(learned.weight(), solved.dequantized())
    for name in ("integers", "scales", "zeros", "g_idx"):
        assert torch.equal(getattr(learned.quantized(), name), getattr(solved, name))


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_move_against_the_gradient_and_stay_on_the_grid(bits: int) -> None:
    weight, hessian = problem(16, 64)
    config = GptqConfig(bits=bits, group_size=32, refine=True)
    learned = start(weight, config, hessian)
    before = learned.quantized()
    for _ in range(100):
        learned.step(torch.ones(16, 64), rate=0.004, scale_rate=0.0)
    after = learned.quantized()
    assert bool((after.integers <= before.integers).all())
    assert float((after.integers < before.integers).float().mean()) > 0.2
    assert (
        int((before.integers.int() - after.integers.int()).max()) == 1
    )  # no further than half a step of the latent
    assert torch.equal(after.scales, before.scales)
    for _ in range(400):
        learned.step(-torch.ones(16, 64), rate=0.004, scale_rate=0.0)
    assert int(learned.quantized().integers.max()) <= config.rule.maxq


def test_a_scale_follows_the_gradients_of_its_group_alone() -> None:
    weight, hessian = problem(4, 64)
    config = GptqConfig(group_size=32)
    learned = start(weight, config, hessian)
    before = learned.quantized()
    gradient = torch.zeros(4, 64)
    gradient[1, 32:] = learned.weight()[1, 32:]  # smaller weights are better there
    learned.step(gradient, rate=0.0, scale_rate=0.01)
    ratio = learned.quantized().scales / before.scales
    expected = torch.ones(4, 2)
    expected[1, 1] = 0.99
    assert torch.allclose(ratio, expected)


def test_steps_along_a_true_gradient_lower_the_error_below_the_solvers() -> None:
    """On another metric than the solver's, as a layer's output is."""
    weight, hessian = problem(32, 128)
    _, other = problem(32, 128, seed=5, shared=1.0)
    learned = start(weight, GptqConfig(group_size=32, sym=True, refine=True), hessian)

    def error() -> float:
        change = learned.weight() - weight
        return float(((change @ other) * change).sum())

    before = error()
    for step in range(60):
        share = 1 - step / 60
        learned.step((learned.weight() - weight) @ other, 0.001 * share, 0.0005 * share)
    assert error() < 0.9 * before


def drifted(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A weight, its input as it was and as it is, and their sums."""
    weight, _ = problem(8, 48, seed)
    generator = torch.Generator().manual_seed(seed)
    was = torch.randn(3, 400, 48, generator=generator)
    noise = 0.02 * torch.randn(3, 400, 48, generator=generator)
    now = was @ (torch.eye(48) + 0.02 * torch.randn(48, 48, generator=generator)) + noise
    gram, change = GramMatrix(48, CPU), DriftSum(48, CPU)
    for one, two in zip(was.split(1), now.split(1), strict=True):
        gram.add(two)
        change.add(one, two)
    return weight, was.flatten(0, 1), now.flatten(0, 1), gram.hessian(), change.mean()


def test_the_whole_change_is_the_least_squares_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_module, "SHARE", 1.0)
    weight, was, now, hessian, change = drifted()
    found = compensated(weight, hessian, change, damp_percent=1e-6)
    best = torch.linalg.lstsq(now.double(), was.double() @ weight.double().t()).solution.t()
    assert torch.allclose(found.double(), best, atol=1e-4)


def test_half_of_the_change_is_nearer_to_what_was_wanted_than_none() -> None:
    weight, was, now, hessian, change = drifted()
    wanted = was @ weight.t()
    found = compensated(weight, hessian, change, damp_percent=0.01)
    assert float((now @ found.t() - wanted).square().sum()) < 0.7 * float(
        (now @ weight.t() - wanted).square().sum()
    )


def test_without_drift_the_weights_stay() -> None:
    weight, _, _, hessian, change = drifted()
    assert torch.equal(compensated(weight, hessian, torch.zeros_like(change), 0.01), weight)


def test_sums_of_parts_are_the_sum() -> None:
    was, now = torch.randn(2, 4, 30, 16, generator=torch.Generator().manual_seed(0))
    whole, one, two = (DriftSum(16, CPU) for _ in range(3))
    whole.add(was, now)
    one.add(was[:1], now[:1])
    two.add(was[1:], now[1:])
    one.merge(two)
    assert torch.allclose(one.mean(), whole.mean(), atol=1e-5)


def test_rounding_learned_from_rtn_is_on_the_grid_of_rtn() -> None:
    weight, _ = problem(8, 64)
    config = GptqConfig(group_size=32)
    nearest = round_to_nearest(weight, 32, config.rule)
    learned = LearnedRounding(weight, nearest, config.rule)
    learned.step(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), 0.1, 0.0)
    assert torch.equal(learned.quantized().zeros, nearest.zeros)
    assert bool(learned.quantized().dequantized().isfinite().all())


def test_a_hessian_that_cannot_be_factored_is_told() -> None:
    weight, _, _, hessian, change = drifted()
    with pytest.raises(QuantizationError, match="the Hessian cannot be factored") as caught:
        compensated(weight, -hessian, change, damp_percent=0.01)
    assert caught.value.category is Category.NUMERICAL_FAILURE
