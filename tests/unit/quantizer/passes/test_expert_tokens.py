"""Experts that calibration reaches with few tokens: the run fails, rounds them to nearest, or sends them all tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.choice import mostly_nightly
from tests.support.engine import (
    awq_pass,
    edit_tensors,
    gptq_pass,
    make_pass,
    quarot_pass,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import GROUP, as_read, family_batches, save_family
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import QuaRot
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes.interface import LayerPass

pytestmark = pytest.mark.unit

ROTATION = QuaRot.model_validate({"type": "QuaRot", "input_model_dtype": "fp32"})
STARVED = "model.layers.1.block_sparse_moe.gate.weight"
TOKENS = family_batches(24, 23)


def made(kind: str, few_tokens: str) -> LayerPass:
    """A pass with a policy about experts."""
    said = {"experts": {"few_tokens": few_tokens}}
    if kind == "awq":
        return make_pass(awq_pass(q_group_size=GROUP, input_model_dtype="fp32", **said))
    if kind == "quarot":
        return make_pass(quarot_pass(w_groupsize=GROUP, input_model_dtype="fp32", **said))
    if kind == "rotated gptq":
        return make_pass(ROTATION, gptq_pass(group_size=GROUP, **said))
    options: dict[str, dict[str, Any]] = {
        "gptq": {"group_size": GROUP},
        "gptq, sequential": {"group_size": GROUP, "true_sequential": True},
        "gptq, best": {"group_size": GROUP, "refine": "best"},
        "gptq, chosen bits": {"group_size": GROUP, "target_bits": 5, "candidate_bits": [2, 4, 8]},
    }
    return make_pass(gptq_pass(**options[kind], **said))


KINDS = ("gptq", "gptq, sequential", "gptq, best", "gptq, chosen bits", "awq", "quarot", "rotated gptq")


def starve(folder: Path) -> None:
    """A Mixtral whose second layer never chooses expert 2."""
    save_family("mixtral", folder, num_experts_per_tok=1)

    def never_the_largest(tensors: dict[str, Tensor]) -> None:
        tensors[STARVED][2] = tensors[STARVED][[0, 1, 3]].mean(0)

    edit_tensors(folder, never_the_largest)


def run(folder: Path, kind: str, few_tokens: str, output: str = "out") -> QuantizeReport:
    source, out = DirectorySource(folder / "model"), folder / output
    return run_layers(source, TOKENS, made(kind, few_tokens), out, folder / f"scratch of {output}")


def experts(report: QuantizeReport) -> list[LinearReport]:
    return [linear for linear in report.linears if ".experts." in linear.name]


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_without_a_token_ends_the_run_by_default(kind: str, tmp_path: Path) -> None:
    starve(tmp_path / "model")
    with pytest.raises(QuantizationError, match=r"no token .*layers\.1\..*experts\.2\.") as caught:
        run(tmp_path, kind, "fail")
    assert caught.value.category is Category.DATA_INSUFFICIENT
    assert "experts" in caught.value.hint


@pytest.mark.parametrize("kind", mostly_nightly(KINDS, ("gptq", "gptq, best", "awq", "quarot")))
def test_an_expert_with_few_tokens_is_rounded_to_nearest_and_told(kind: str, tmp_path: Path) -> None:
    starve(tmp_path / "model")
    report = run(tmp_path, kind, "rtn")
    found = experts(report)
    few = {linear.name for linear in found if (linear.tokens or 0) < 2 * linear.shape[1]}
    assert {linear.name for linear in report.linears if linear.nearest} == few
    assert 0 < len(few) < len(found)
    starved = [linear for linear in found if ".1.block_sparse_moe.experts.2." in linear.name]
    assert [linear.tokens for linear in starved] == [0, 0, 0]
    assert all(linear.error == linear.error_rtn for linear in found if linear.nearest and kind != "awq")
    assert not any(linear.nearest for linear in report.linears if ".experts." not in linear.name)


@pytest.mark.parametrize("kind", ["gptq", "gptq, sequential"])
def test_what_is_rounded_to_nearest_is_what_rtn_makes_and_nothing_else_changes(
    kind: str, tmp_path: Path
) -> None:
    save_family("mixtral", tmp_path / "model", num_experts_per_tok=1)
    fitted = run(tmp_path, kind, "fail", "fitted")
    report = run(tmp_path, kind, "rtn")
    layer_pass = made(kind, "rtn")
    weights = load_file(tmp_path / "model/model.safetensors")
    seen, before = as_read(tmp_path / "out"), as_read(tmp_path / "fitted")
    first = [linear for linear in report.linears if ".layers.0." in linear.name]
    assert len({linear.nearest for linear in first}) == 2
    for linear in first:
        if linear.nearest:
            nearest = layer_pass.format.as_read(layer_pass.rtn(weights[f"{linear.name}.weight"])).float()
            assert torch.equal(seen[linear.name], nearest), linear.name
        elif "down" not in linear.name and "w2" not in linear.name:
            assert torch.equal(seen[linear.name], before[linear.name]), linear.name
    assert not any(linear.nearest for linear in fitted.linears)


@pytest.mark.parametrize("kind", mostly_nightly(KINDS, ("gptq", "awq", "rotated gptq")))
def test_every_token_is_sent_to_every_expert_while_statistics_are_gathered(kind: str, tmp_path: Path) -> None:
    starve(tmp_path / "model")
    report = run(tmp_path, kind, "all")
    found = experts(report)
    assert {linear.tokens for linear in found} == {TOKENS.tokens}
    routed = {linear.name: linear.routed for linear in found}
    assert routed["model.layers.1.block_sparse_moe.experts.2.w1"] == 0
    for layer, part in ((layer, part) for layer in (0, 1) for part in ("w1", "w2")):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts"
        counts = [routed[f"{prefix}.{expert}.{part}"] for expert in range(4)]
        assert sum(count or 0 for count in counts) == TOKENS.tokens
    others = [linear for linear in report.linears if linear not in found]
    assert {linear.routed for linear in others} == {None}
    assert not any(linear.nearest for linear in report.linears)


@pytest.mark.parametrize("kind", mostly_nightly(KINDS, ("gptq", "awq", "quarot")))
def test_where_the_router_sends_every_token_everywhere_it_is_the_same(kind: str, tmp_path: Path) -> None:
    save_family("mixtral", tmp_path / "model", num_experts_per_tok=4)
    run(tmp_path, kind, "fail", "fail")
    run(tmp_path, kind, "all", "all")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("fail", "all"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_hidden_states_are_those_of_the_routed_model(tmp_path: Path) -> None:
    """AWQ sees the unrounded model throughout, so that attention is the same whatever experts read."""
    save_family("mixtral", tmp_path / "model", num_experts_per_tok=1)
    run(tmp_path, "awq", "fail", "fail")
    run(tmp_path, "awq", "all", "all")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("fail", "all"))
    attention = [name for name in one if "self_attn" in name]
    assert all(torch.equal(one[name], other[name]) for name in attention)
    packed = [name for name in one if ".experts." in name and name.endswith("qweight")]
    assert not all(torch.equal(one[name], other[name]) for name in packed)


@pytest.mark.parametrize("few_tokens", ["rtn", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_experts_takes_no_policy_about_them(
    kind: str, few_tokens: str, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model")
    with pytest.raises(QuantizationError, match="has no experts") as caught:
        run(tmp_path, kind, few_tokens)
    assert caught.value.category is Category.INVALID_WORKFLOW
