"""Input that the streaming loop does not take: named, with its category, and nothing half-written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.decoder_families import relative
from tests.support.engine import (
    CPU,
    awq_pass,
    edit_tensors,
    gptq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    run_pass,
    save_tiny,
)
from tests.support.quantized_models import GROUP, family_batches, save_family, view_logits
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.views import FloatView, open_view
from quantizer.passes.interface import LayerPass
from quantizer.passes.weight_pass import WeightParameters

pytestmark = pytest.mark.unit


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny random model in float16."""
    save_tiny(tmp_path / "model", dtype="float16")
    edit_tensors(
        tmp_path / "model",
        lambda tensors: tensors.update({name: t.half() for name, t in tensors.items()}),
    )
    return tmp_path / "model"


ANY = "sizes that fit every layer of this model: -1, 16, 32, 64"


@pytest.mark.parametrize(
    ("parameters", "sentence", "hint"),
    [
        (gptq_pass(), f"group_size 128 does not divide LINEAR; {ANY}", "Set group_size to one of these."),
        (
            gptq_pass(group_size=24),
            f"group_size 24 does not divide LINEAR; {ANY}",
            "Set group_size to one of these.",
        ),
        (awq_pass(), f"q_group_size 128 does not divide LINEAR; {ANY}", "Set q_group_size to one of these."),
        (
            awq_pass(version="gemv"),
            "q_group_size 128 does not divide LINEAR; sizes that fit every layer of this model: 64",
            "Set q_group_size to this one.",
        ),
        (
            awq_pass(version="gemv_fast"),
            "q_group_size 128 does not divide LINEAR; no q_group_size that this pass takes fits "
            "every layer of this model",
            "Use version: gemm, which takes -1 (one group per row) and smaller sizes, or a GptqQuantizer.",
        ),
        (
            quarot_pass(w_groupsize=128),
            f"w_groupsize 128 does not divide LINEAR; {ANY}",
            "Set w_groupsize to one of these.",
        ),
    ],
)
def test_a_group_size_that_does_not_fit_names_the_layer_and_the_sizes_that_the_pass_takes_and_that_do(
    parameters: WeightParameters, sentence: str, hint: str, tiny: Path, tmp_path: Path
) -> None:
    source, layer_pass = DirectorySource(tiny), make_pass(parameters)
    with pytest.raises(QuantizationError) as caught:
        run_layers(source, random_batches(), layer_pass, tmp_path / "out", tmp_path / "scratch")
    assert caught.value.category is Category.INVALID_WORKFLOW
    linear = "the 64 inputs of model.layers.0.self_attn.q_proj"
    assert caught.value.message == sentence.replace("LINEAR", linear)
    assert caught.value.hint == hint
    assert list((tmp_path / "out").iterdir()) == []


def spoil(folder: Path, name: str, value: float) -> None:
    """Puts one bad value into a tensor."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
    ],
)
def test_weights_that_are_not_finite_are_named(name: str, value: float, tiny: Path, tmp_path: Path) -> None:
    spoil(tiny, name, value)
    with pytest.raises(QuantizationError, match=f"{name} has values that are not finite") as caught:
        run_pass(
            DirectorySource(tiny), random_batches(), tmp_path / "out", tmp_path / "scratch", group_size=32
        )
    assert caught.value.category is Category.NUMERICAL_FAILURE
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_statistics_that_are_not_finite_name_the_linear(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["model.layers.1.post_attention_layernorm.weight"].mul_(1e25)  # finite, but not its square
    save_file(tensors, tmp_path / "model/model.safetensors")
    with pytest.raises(
        QuantizationError, match=r"inputs of model.layers.1.mlp.gate_proj are not finite"
    ) as caught:
        run_pass(
            DirectorySource(tmp_path / "model"),
            random_batches(),
            tmp_path / "o",
            tmp_path / "s",
            group_size=32,
        )
    assert caught.value.category is Category.NUMERICAL_FAILURE


def test_weights_too_large_for_readers_name_the_linear(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].mul_(1e9)
    save_file(tensors, tmp_path / "model/model.safetensors")
    with pytest.raises(QuantizationError, match=r"layers.1.mlp.up_proj: a weight is too large for float16"):
        run_pass(
            DirectorySource(tmp_path / "model"),
            random_batches(),
            tmp_path / "o",
            tmp_path / "s",
            group_size=32,
        )


def test_inputs_that_are_always_zero_name_the_linear(tiny: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    tensors["model.layers.1.input_layernorm.weight"].zero_()
    save_file(tensors, tiny / "model.safetensors")
    with pytest.raises(QuantizationError, match=r"inputs of model.layers.1.self_attn.q_proj are zero"):
        run_pass(
            DirectorySource(tiny), random_batches(), tmp_path / "out", tmp_path / "scratch", group_size=32
        )


PASSES: dict[str, LayerPass] = {
    "gptq": make_pass(gptq_pass(group_size=GROUP, bits=8)),
    "gptq, act-order": make_pass(gptq_pass(group_size=GROUP, desc_act=True, static_groups=True)),
    "awq": make_pass(awq_pass(q_group_size=GROUP, input_model_dtype="fp32")),
}


@pytest.mark.parametrize("kind", PASSES)
def test_channels_that_are_always_zero_are_no_failure(kind: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", initializer_range=0.1)

    def kill(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.input_layernorm.weight"][5:9] = 0
        tensors["model.layers.1.mlp.up_proj.weight"][7] = 0  # an input of down_proj

    edit_tensors(tmp_path / "model", kill)
    source = DirectorySource(tmp_path / "model")
    run_layers(source, random_batches(), PASSES[kind], tmp_path / "out", tmp_path / "scratch")
    tokens = random_batches(4, seed=2).batches()[0]
    ours = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU), tokens)
    assert relative(ours, view_logits(FloatView(DecoderLayout.open(source), CPU), tokens)) < (
        0.02 if kind == "gptq" else 0.5
    )  # of 8 and of 4 bits


@pytest.mark.parametrize("kind", PASSES)
def test_fewer_tokens_than_inputs_are_no_failure(kind: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", initializer_range=0.1)
    source, few = DirectorySource(tmp_path / "model"), random_batches(1, 7)
    report = run_layers(source, few, PASSES[kind], tmp_path / "out", tmp_path / "scratch")
    assert report.calibration_tokens == 7
    assert all(module.error <= 1.02 * module.error_rtn for module in report.linears if kind != "awq")


@pytest.mark.parametrize("kind", PASSES)
def test_an_expert_without_a_token_is_named(kind: str, tmp_path: Path) -> None:
    save_family("mixtral", tmp_path / "model", num_experts_per_tok=1)
    name = "model.layers.1.block_sparse_moe.gate.weight"

    def starve(tensors: dict[str, Tensor]) -> None:
        tensors[name][2] = tensors[name][[0, 1, 3]].mean(0)  # never the largest

    edit_tensors(tmp_path / "model", starve)
    with pytest.raises(
        QuantizationError, match=r"no token .* reached model\.layers\.1\..*experts\.2\."
    ) as caught:
        run_layers(
            DirectorySource(tmp_path / "model"),
            family_batches(4, 5),
            PASSES[kind],
            tmp_path / "out",
            tmp_path / "scratch",
        )
    assert caught.value.category is Category.DATA_INSUFFICIENT
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("kind", PASSES)
def test_an_expert_reports_the_tokens_that_it_was_sent(kind: str, tmp_path: Path) -> None:
    save_family("qwen3_moe, all sparse, normalized", tmp_path / "model")
    tokens = family_batches(4, 5)
    report = run_layers(
        DirectorySource(tmp_path / "model"), tokens, PASSES[kind], tmp_path / "out", tmp_path / "scratch"
    )
    read = {module.name: module.tokens for module in report.linears}
    assert read["model.layers.1.self_attn.o_proj"] == tokens.tokens
    experts = [f"model.layers.1.mlp.experts.{expert}" for expert in range(3)]
    counts = [read[f"{expert}.down_proj"] for expert in experts]
    assert counts == [read[f"{expert}.up_proj"] for expert in experts]
    assert all(counts)
    assert len(set(counts)) > 1  # or what was counted was not an expert's own
    assert sum(count or 0 for count in counts) == 2 * tokens.tokens


def refused(tmp_path: Path, sentence: str) -> Category:
    """The category of a refusal before anything is computed or written, whatever the pass."""
    categories = set()
    for kind, layer_pass in PASSES.items():
        out = tmp_path / f"out of {kind}"
        with pytest.raises(QuantizationError, match=sentence) as caught:
            run_layers(
                DirectorySource(tmp_path / "model"), random_batches(), layer_pass, out, tmp_path / "scratch"
            )
        assert list(out.glob("*")) == []  # nor need it be there: the layout is opened first
        assert list((tmp_path / "scratch").glob("*")) == []
        categories.add(caught.value.category)
    (category,) = categories
    return category


def save_sharded(folder: Path) -> list[Path]:
    """A tiny model in several shards."""
    save_tiny(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    shard = save_sharded(tmp_path / "model")[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    assert refused(tmp_path, f"{shard.name} is truncated") is Category.MODEL_UNSUPPORTED


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    shard = save_sharded(tmp_path / "model")[1]
    shard.unlink()
    assert refused(tmp_path, f"names {shard.name}, which the model does not have") is Category.MODEL_NOT_FOUND


@pytest.mark.parametrize(("dtype", "said"), [(torch.float64, "float64"), (torch.int8, "int8")])
def test_weights_of_an_unsupported_type_are_named(dtype: torch.dtype, said: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    assert refused(tmp_path, f"{name} has dtype {said}; supported: ") is Category.MODEL_UNSUPPORTED


def test_a_model_that_is_already_quantized_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "first")
    run_pass(
        DirectorySource(tmp_path / "first"),
        random_batches(),
        tmp_path / "model",
        tmp_path / "s",
        group_size=32,
    )
    assert refused(tmp_path, r"already quantized \(quant_method gptq\)") is Category.MODEL_UNSUPPORTED


def test_a_config_that_makes_other_shapes_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "intermediate_size": 256}))
    assert (
        refused(tmp_path, r"has shape \[128, 64\], config.json makes it \[256, 64\]")
        is Category.MODEL_UNSUPPORTED
    )
