"""Mixtures of experts are rotated with router, shared experts and their gates, and transformers reads the result."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import relative
from tests.support.engine import gptq_pass, ignore_progress, make_pass, quarot_pass, run_layers
from tests.support.quantized_models import (
    GROUP,
    as_float,
    family_batches,
    transformers_logits,
    view_logits,
)
from tests.unit.quantizer.passes.test_fused_experts import CPU, fuse, quantized, save_sharded
from tests.unit.quantizer.passes.test_resume import StoppedError, run, stop_after

from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.passes.quarot_layers import QuarotLayerPass

pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore")]

ROUTERS = {
    "deepseek_v3": "model.layers.1.mlp.gate.weight",
    "qwen3_moe": "model.layers.1.mlp.gate.weight",
    "gpt_oss": "model.layers.1.mlp.router.weight",
    "glm4_moe": "model.layers.1.mlp.gate.weight",
    "granitemoe": "model.layers.1.block_sparse_moe.router.layer.weight",
    "llama4_text": "model.layers.1.feed_forward.router.weight",
    "qwen3_next": "model.layers.1.mlp.gate.weight",
    "phimoe": "model.layers.1.block_sparse_moe.gate.weight",
    "minimax_m2": "model.layers.1.block_sparse_moe.gate.weight",
    "nemotron_h": "backbone.layers.1.mixer.gate.weight",
    "granitemoehybrid": "model.layers.1.block_sparse_moe.router.layer.weight",
    "jamba": "model.layers.1.feed_forward.router.weight",
}
"""By type: the tensor that chooses experts, in the checkpoint."""
EVERY_TIME = ("deepseek_v3", "gpt_oss", "llama4_text")
ALONE = QuarotLayerPass(QuarotParameters(), torch.float32)
"""Rotations alone, in float32."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return found


@pytest.mark.parametrize("model_type", mostly_nightly(ROUTERS, EVERY_TIME))
def test_a_rotated_mixture_reloaded_by_transformers_says_what_the_model_said(
    model_type: str, tmp_path: Path
) -> None:
    save_sharded(model_type, tmp_path)
    artifact = quantized(tmp_path, ALONE)
    before, after = tensors_of(tmp_path / "model"), tensors_of(artifact)
    assert {"lm_head.weight", *before} == {"lm_head.weight", *after}  # fused tensors are written fused
    router = ROUTERS[model_type]
    assert not torch.allclose(before[router], after[router], atol=1e-3)
    tokens = family_batches(4, seed=4).batches()[0]
    plain, turned = (transformers_logits(folder, tokens) for folder in (tmp_path / "model", artifact))
    assert relative(turned, plain) < 1e-4
    assert relative(view_logits(open_view(DirectorySource(artifact), CPU), tokens), plain) < 1e-4


@pytest.mark.parametrize("model_type", mostly_nightly(ROUTERS, ("gpt_oss", "qwen3_next")))
def test_a_rotated_mixture_of_eight_bits_says_nearly_the_same(model_type: str, tmp_path: Path) -> None:
    save_sharded(model_type, tmp_path)
    group = -1 if model_type == "nemotron_h" else GROUP
    rounding = gptq_pass(bits=8, group_size=group, checkpoint_format="compressed-tensors")
    artifact = quantized(tmp_path, make_pass(quarot_pass(), rounding))
    as_float(artifact, tmp_path / "float")
    if model_type == "gpt_oss":
        fuse(tmp_path / "float", model_type)
    tokens = family_batches(4, seed=4).batches()[0]
    plain = transformers_logits(tmp_path / "model", tokens)
    seen = view_logits(open_view(DirectorySource(artifact), CPU), tokens)
    # not the largest difference: a router may send a token to another of two experts that it likes as much
    assert 1e-6 < float((seen - plain).abs().median() / plain.abs().max()) < 0.01
    if model_type in ("deepseek_v3", "gpt_oss"):
        assert relative(transformers_logits(tmp_path / "float", tokens), seen) < 1e-5


def test_a_rotation_of_fused_experts_that_was_ended_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    save_sharded("gpt_oss", tmp_path)
    tokens = family_batches()
    with pytest.raises(StoppedError):
        run(tmp_path, ALONE, tokens, "stopped", stop_after(1))
    assert run(tmp_path, ALONE, tokens, "resumed").resumed_layers == 1
    run_layers(
        DirectorySource(tmp_path / "model"), tokens, ALONE, tmp_path / "whole", tmp_path / "scratch",
        on_progress=ignore_progress, max_shard_bytes=20_000,
    )  # fmt: skip
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("resumed", "whole")
    )
    assert one == other
