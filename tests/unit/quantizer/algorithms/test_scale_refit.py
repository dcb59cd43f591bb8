"""Scales that are fitted after rounding: the least squares of the layer's error, integers untouched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import random_batches, run_pass, save_tiny
from tests.unit.quantizer.algorithms.test_gptq_solver import problem
from torch import Tensor

from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.scale_refit import refit_scales
from quantizer.algorithms.gptq.solver import Factored, gptq
from quantizer.algorithms.hessian import weighted_square
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes import gptq_layers as layerwise_gptq

pytestmark = pytest.mark.unit

DAMPING = GptqConfig().damp_percent


def errors(weight: Tensor, hessian: Tensor, quantized: QuantizedWeight) -> Tensor:
    return weighted_square(weight - quantized.dequantized(), damped(hessian, DAMPING))


def damped(hessian: Tensor, percent: float) -> Tensor:
    return hessian + percent * hessian.diagonal().mean() * torch.eye(len(hessian))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("group_size", [32, 48, -1])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("static_groups", [False, True])
def test_no_row_becomes_worse_and_the_whole_better(
    bits: int, group_size: int, desc_act: bool, static_groups: bool
) -> None:
    weight, hessian = problem(24, 192)
    config = GptqConfig(bits=bits, group_size=group_size, desc_act=desc_act, static_groups=static_groups)
    before = gptq(weight, hessian, config)[0]
    after = refit_scales(weight, hessian, before, DAMPING)
    was, is_now = errors(weight, hessian, before), errors(weight, hessian, after)
    assert bool((is_now <= was * (1 + 1e-4)).all())
    assert float(is_now.sum()) < 0.999 * float(was.sum())
    for name in ("integers", "zeros", "g_idx"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert bool((after.scales > 0).all())


def test_of_one_group_it_is_the_least_squares_solution() -> None:
    weight, hessian = problem(16, 96)
    before = gptq(weight, hessian, GptqConfig(group_size=-1, bits=3))[0]
    after = refit_scales(weight, hessian, before, DAMPING)
    root = torch.linalg.cholesky(damped(hessian, DAMPING).double())
    levels = (before.integers - before.zeros).double()
    for row in range(16):
        best = torch.linalg.lstsq(
            (levels[row] @ root).unsqueeze(1), (weight[row].double() @ root).unsqueeze(1)
        )
        assert float(after.scales[row]) == pytest.approx(float(best.solution), rel=1e-4)


def test_each_group_is_at_its_least_when_its_turn_ends() -> None:
    weight, hessian = problem(8, 256)
    after = refit_scales(weight, hessian, gptq(weight, hessian, GptqConfig(group_size=32))[0], DAMPING)
    least = errors(weight, hessian, after)
    for factor in (0.999, 1.001):  # the last group's turn is the last: no other step came after it
        scales = after.scales.clone()
        scales[:, -1] *= factor
        assert bool((errors(weight, hessian, replace(after, scales=scales)) > least).all())


@pytest.mark.parametrize("group_size", [192, 32])
def test_after_many_turns_no_scale_can_be_better(group_size: int) -> None:
    weight, hessian = problem(24, 192)
    before = gptq(weight, hessian, GptqConfig(group_size=group_size, bits=3, sym=True))[0]
    once, often = (refit_scales(weight, hessian, before, DAMPING, turns) for turns in (1, 12))
    least = errors(weight, hessian, often).sum()
    rounding = 1 + 1e-7  # of the scales to float32
    assert float(least) <= float(errors(weight, hessian, once).sum()) * rounding
    for factor in (0.995, 1.005):
        for group in range(often.scales.shape[1]):
            scales = often.scales.clone()
            scales[:, group] *= factor
            assert float(errors(weight, hessian, replace(often, scales=scales)).sum()) > float(least)


def test_a_group_without_levels_keeps_its_scale_and_a_scale_stays_positive() -> None:
    weight, hessian = problem(4, 64)
    weight[0, :32] = 0.0
    before = gptq(weight, hessian, GptqConfig(group_size=32))[0]
    emptied = replace(before, integers=before.integers.clone())
    emptied.integers[0, :32] = before.zeros[0, 0].to(torch.uint8)
    assert torch.equal(refit_scales(weight, hessian, emptied, DAMPING).scales[0, 0], emptied.scales[0, 0])
    assert bool((refit_scales(-weight, hessian, before, DAMPING).scales > 0).all())


def test_arguments_are_left_alone() -> None:
    weight, hessian = problem(8, 64)
    before = gptq(weight, hessian, GptqConfig(group_size=32, desc_act=True))[0]
    kept = weight.clone(), hessian.clone(), before.scales.clone()
    refit_scales(weight, hessian, before, DAMPING)
    for now, then in zip((weight, hessian, before.scales), kept, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(("bits", "fitted"), [(2, True), (4, True), (8, False)])
def test_a_pass_refines_up_to_four_bits(
    bits: int, fitted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, QuantizedWeight]] = []

    def watched(
        weight: Tensor, hessian: Tensor, config: GptqConfig, factored: Factored
    ) -> tuple[QuantizedWeight, float]:
        solved, damping = gptq(weight, hessian, config, factored)
        seen.append((config.refines, solved))
        return solved, damping

    monkeypatch.setattr(layerwise_gptq, "gptq", watched)
    save_tiny(tmp_path / "model")
    source = DirectorySource(tmp_path / "model")
    run_pass(source, random_batches(), tmp_path / "out", tmp_path / "scratch", group_size=32, bits=bits)
    assert {refine for refine, _ in seen} == {fitted}
    stored = load_file(next((tmp_path / "out").glob("*.safetensors")))
    scales = stored["model.layers.0.self_attn.q_proj.scales"].float().t()
    assert torch.equal(scales, seen[0][1].scales[: len(scales)].half().float())
