"""Models whose class holds experts in fused tensors: from a sharded checkpoint to an artifact with linears."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import relative
from tests.support.engine import CPU, awq_pass, gptq_pass, ignore_progress, make_pass, run_layers
from tests.support.quantized_models import (
    GROUP,
    as_float,
    family_batches,
    transformers_logits,
    unpacked,
    view_logits,
)
from tests.unit.quantizer.passes.test_resume import StoppedError, run, stop_after
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.passes.interface import LayerPass

pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore")]

KINDS = {
    "deepseek_v3": "model.layers.1.mlp.experts.{}.gate_proj",
    "gpt_oss": "model.layers.1.mlp.experts.{}.gate_proj",
    "llama4_text": "model.layers.1.feed_forward.experts.{}.gate_proj",
    "qwen3_next": "model.layers.1.mlp.experts.{}.gate_proj",
    "minimax_m2": "model.layers.1.block_sparse_moe.experts.{}.w1",
}
"""By type: what an expert's gate is called in the artifact."""
EVERY_TIME = ("deepseek_v3", "gpt_oss", "llama4_text")
WRITTEN = {"qwen3_next": "compressed-tensors", "llama4_text": "compressed-tensors"}
"""gptq cannot say that the gate of Qwen3-Next's shared expert, of one output, stays as it is, nor Llama 4's router."""
IN_ONE_TENSOR = {"gpt_oss": "mlp.experts.", "llama4_text": "feed_forward.experts."}
"""By type whose checkpoints hold experts in one tensor: their module in a layer."""
EIGHT: dict[str, LayerPass] = {
    "gptq": make_pass(gptq_pass(bits=8, group_size=GROUP, true_sequential=True)),
    "awq": make_pass(awq_pass(w_bit=4, q_group_size=GROUP)),
    "compressed-tensors": make_pass(
        gptq_pass(bits=8, group_size=GROUP, checkpoint_format="compressed-tensors")
    ),
}


def save_sharded(model_type: str, folder: Path) -> Any:
    """A tiny random model in many files."""
    whole = small_model(model_type)
    whole.save_pretrained(folder / "model", max_shard_size="30KB")
    assert len(list((folder / "model").glob("*.safetensors"))) > 2
    return whole


def quantized(folder: Path, layer_pass: LayerPass) -> Path:
    """The artifact of the model in the folder."""
    source = DirectorySource(folder / "model")
    run_layers(
        source, family_batches(), layer_pass, folder / "out", folder / "scratch", max_shard_bytes=30_000
    )
    return folder / "out"


def fuse(folder: Path, model_type: str) -> None:
    """Makes of linears of experts the tensors that transformers reads, by the definition of the type's class."""
    tensors = load_file(folder / "model.safetensors")

    def stacked(prefix: str, linear: str, leaf: str) -> Tensor:
        parts = [tensors.pop(f"{prefix}{expert}.{linear}.{leaf}") for expert in range(4)]
        return torch.stack([part.t() if leaf == "weight" else part for part in parts])

    leaves = {name.rpartition(".")[2] for name in tensors if ".experts.0." in name}
    for layer in sorted({name.split(".")[2] for name in tensors if ".experts.0." in name}):
        prefix = f"model.layers.{layer}.{IN_ONE_TENSOR[model_type]}"
        for leaf in leaves:
            ending = "_bias" if leaf == "bias" else ""
            gate, up = (stacked(prefix, linear, leaf) for linear in ("gate_proj", "up_proj"))
            in_turn = torch.stack((gate, up), -1).flatten(-2)
            both = in_turn if model_type == "gpt_oss" else torch.cat((gate, up), -1)
            tensors[f"{prefix}gate_up_proj{ending}"] = both.contiguous()
            tensors[f"{prefix}down_proj{ending}"] = stacked(prefix, "down_proj", leaf).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("model_type", mostly_nightly(KINDS, EVERY_TIME))
def test_eight_bits_read_back_by_transformers_say_what_the_model_said(
    model_type: str, tmp_path: Path
) -> None:
    whole = save_sharded(model_type, tmp_path)
    artifact = quantized(tmp_path, EIGHT[WRITTEN.get(model_type, "gptq")])
    assert {KINDS[model_type].format(expert) for expert in range(4)} <= set(unpacked(artifact))
    as_float(artifact, tmp_path / "float")
    if model_type in IN_ONE_TENSOR:
        fuse(tmp_path / "float", model_type)
    tokens = torch.arange(3, 35)[None]
    with torch.inference_mode():
        expected = whole(input_ids=tokens, use_cache=False).logits
    made = transformers_logits(tmp_path / "float", tokens)
    assert relative(view_logits(open_view(DirectorySource(artifact), CPU), tokens), made) < 1e-5
    # not the largest difference: a router may send a token to another of two experts that it likes as much
    assert (made - expected).abs().median() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_a_run_that_was_ended_goes_on_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    save_sharded("deepseek_v3", tmp_path)
    layer_pass, tokens = EIGHT[kind], family_batches()
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(1))
    assert run(tmp_path, layer_pass, tokens, "resumed").resumed_layers == 1
    run_layers(
        DirectorySource(tmp_path / "model"), tokens, layer_pass, tmp_path / "whole", tmp_path / "scratch",
        on_progress=ignore_progress, max_shard_bytes=20_000,
    )  # fmt: skip
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("resumed", "whole")
    )
    assert one == other


def test_what_lies_in_one_tensor_with_others_is_not_left_as_it_is(tmp_path: Path) -> None:
    save_sharded("gpt_oss", tmp_path)
    with pytest.raises(QuantizationError, match="it would be stored by itself") as caught:
        quantized(
            tmp_path, make_pass(awq_pass(w_bit=4, q_group_size=GROUP, modules_to_not_convert=["down_proj"]))
        )
    assert caught.value.category == Category.INVALID_WORKFLOW


def test_where_nothing_is_packed_experts_are_written_in_one_tensor_as_they_were(tmp_path: Path) -> None:
    save_sharded("gpt_oss", tmp_path)
    artifact = quantized(tmp_path, make_pass(awq_pass(w_bit=4, q_group_size=GROUP, export_compatible=True)))
    names = [
        {name for path in folder.glob("*.safetensors") for name in load_file(path)}
        for folder in (tmp_path / "model", artifact)
    ]
    assert names[0] == names[1]
    tokens = torch.arange(3, 35)[None]
    plain, made = (transformers_logits(folder, tokens) for folder in (tmp_path / "model", artifact))
    assert relative(view_logits(open_view(DirectorySource(artifact), CPU), tokens), made) < 1e-5
    assert (made - plain).abs().median() < 0.05 * plain.abs().max()  # weights are clipped


@pytest.mark.parametrize(
    ("model_type", "written"), [("deepseek_v3", "gptq"), ("llama4_text", "compressed-tensors")]
)
def test_tokens_of_each_expert_are_told(model_type: str, written: str, tmp_path: Path) -> None:
    """256 of 552 tokens by two experts each, say; all of them where every expert is to read all."""
    small_model(model_type, num_experts_per_tok=2).save_pretrained(tmp_path / "model")
    layer_pass = make_pass(
        gptq_pass(bits=8, group_size=GROUP, checkpoint_format=written, experts={"few_tokens": "all"})
    )
    report = run_layers(
        DirectorySource(tmp_path / "model"),
        family_batches(),
        layer_pass,
        tmp_path / "out",
        tmp_path / "scratch",
    )
    gates = [
        one
        for one in report.linears
        if ".layers.1." in one.name and ".experts." in one.name and "gate" in one.name
    ]
    assert [one.tokens for one in gates] == [24 * 23] * 4
    assert sum(one.routed or 0 for one in gates) == 2 * 24 * 23
