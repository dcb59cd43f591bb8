"""Every parameter of a pass changes what it says, and nothing that it does not say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import (
    CPU,
    awq_pass,
    edit_tensors,
    gptq_pass,
    ignore_progress,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import view_logits
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate
from quantizer.evaluation.views import open_view
from quantizer.formats.reading import stored_format
from quantizer.passes.making import PASSES

pytestmark = pytest.mark.unit

UP = "model.layers.1.mlp.up_proj"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny random Llama whose input channels differ in size, so that an order of columns means something."""
    save_tiny(tmp_path / "model", initializer_range=0.1)

    def stretch(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("layernorm.weight"):
                tensor.mul_(
                    torch.logspace(-1, 1, len(tensor))[torch.randperm(len(tensor), generator=seeded())]
                )

    edit_tensors(tmp_path / "model", stretch)
    return tmp_path / "model"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Made:
    """An artifact of the tiny model with these parameters, in a directory of its name."""

    def __init__(self, model: Path, name: str, parameters: Any) -> None:
        self.folder = model.parent / name
        self.report: QuantizeReport = run_layers(
            DirectorySource(model),
            random_batches(),
            make_pass(parameters),
            self.folder,
            model.parent / "scratch",
            modules=PASSES[type(parameters)](parameters).modules,
        )
        self.tensors = load_file(self.folder / "model.safetensors")
        self.config = json.loads((self.folder / "config.json").read_text())

    @property
    def said(self) -> dict[str, Any]:
        """quantization_config."""
        said: dict[str, Any] = self.config["quantization_config"]
        return said

    def reads_back(self) -> bool:
        """Whether the artifact's logits are finite, and near those of the float model."""
        source = DirectorySource(self.folder.parent / "model")
        figures = evaluate(
            DecoderLayout.open(source),
            DirectorySource(self.folder),
            random_batches(4, seed=2),
            CPU,
            ignore_progress,
            self.folder,
        )
        return figures.kl_divergence < 0.5

    def unpacked(self, linear: str = UP) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Integers, scales, zeros, group of each column."""
        layout = stored_format(self.config).format
        parts = {part: self.tensors[f"{linear}.{part}"] for part in layout.tensors}
        back = layout.unpack(linear, parts)
        return back.integers, back.scales, back.zeros, back.g_idx


def gptq_made(model: Path, name: str = "out", **parameters: Any) -> Made:
    return Made(model, name, gptq_pass(**{"group_size": 32, **parameters}))


def awq_made(model: Path, name: str = "out", **parameters: Any) -> Made:
    return Made(model, name, awq_pass(**{"q_group_size": 32, "input_model_dtype": "fp32", **parameters}))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bits_are_the_range_of_the_integers(bits: int, tiny: Path) -> None:
    made = gptq_made(tiny, bits=bits)
    integers = made.unpacked()[0]
    assert (int(integers.min()), int(integers.max())) == (0, 2**bits - 1)
    assert made.said["bits"] == bits
    assert made.tensors[f"{UP}.qweight"].shape == (64 * bits // 32, 128)
    assert made.report.bits_per_weight == pytest.approx(bits + (16 + bits) / 32 + 32 / 128, abs=0.5)


@pytest.mark.parametrize(("group_size", "groups"), [(32, 2), (16, 4), (64, 1), (-1, 1)])
def test_group_size_is_how_many_inputs_share_a_scale(group_size: int, groups: int, tiny: Path) -> None:
    made = gptq_made(tiny, group_size=group_size)
    assert made.unpacked()[1].shape == (128, groups)
    assert made.said["group_size"] == group_size
    assert made.reads_back()


def test_damping_is_reported_as_asked_and_changes_what_is_rounded(tiny: Path) -> None:
    little, much = gptq_made(tiny, "little"), gptq_made(tiny, "much", damp_percent=0.9)
    assert {module.damping for module in little.report.linears} == {0.01}
    assert {module.damping for module in much.report.linears} == {0.9}
    assert little.said["damp_percent"] == 0.01
    assert not torch.equal(little.unpacked()[0], much.unpacked()[0])
    errors = [sum(module.error for module in made.report.linears) for made in (little, much)]
    assert errors[0] < errors[1]  # heavy damping is close to RTN


def test_an_increase_of_the_damping_is_recorded_for_the_linear_that_needed_it(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", initializer_range=0.1)
    report = run_layers(
        DirectorySource(tmp_path / "model"),
        random_batches(sequences=3, length=32),  # more tokens than inputs, but fewer than of down_proj
        make_pass(gptq_pass(group_size=32, damp_percent=1e-12)),
        tmp_path / "out",
        tmp_path / "scratch",
    )
    used = {module.damping for module in report.linears}
    assert 1e-12 in used
    down = [module.damping for module in report.linears if module.name.endswith("down_proj")]
    assert all(1e-12 < percent < 1e-3 for percent in down)


def test_sym_has_the_middle_as_every_zero_point(tiny: Path) -> None:
    one, other = gptq_made(tiny, "sym", sym=True), gptq_made(tiny, "asym")
    assert set(one.unpacked()[2].flatten().tolist()) == {8}
    assert len(set(other.unpacked()[2].flatten().tolist())) > 1
    assert (one.said["sym"], other.said["sym"]) == (True, False)
    assert one.reads_back()


def test_desc_act_rounds_columns_by_activation_and_keeps_their_places(tiny: Path) -> None:
    natural = gptq_made(tiny, "natural", refine="none")
    ordered = gptq_made(tiny, "ordered", desc_act=True, refine="none")
    assert natural.unpacked()[3].tolist() == [0] * 32 + [1] * 32
    groups = ordered.unpacked()[3]
    assert groups.bincount().tolist() == [32, 32]
    norm = load_file(tiny / "model.safetensors")["model.layers.1.post_attention_layernorm.weight"].abs()
    assert float(norm[groups == 0].mean()) > 2 * float(norm[groups == 1].mean())  # the largest come first
    assert ordered.said["desc_act"] is True
    assert ordered.reads_back()
    assert sum(m.error for m in ordered.report.linears) < sum(m.error for m in natural.report.linears)


def test_static_groups_lie_as_the_columns_do_whatever_the_order(tiny: Path) -> None:
    static = gptq_made(tiny, "static", desc_act=True, static_groups=True, refine="none")
    dynamic = gptq_made(tiny, "dynamic", desc_act=True)
    assert static.unpacked()[3].tolist() == [0] * 32 + [1] * 32
    assert not torch.equal(static.unpacked()[1], dynamic.unpacked()[1])
    weight = load_file(tiny / "model.safetensors")[f"{UP}.weight"]
    reach = (
        weight.view(128, 2, 32).amax(-1).clamp(min=0) - weight.view(128, 2, 32).amin(-1).clamp(max=0)
    ) / 15
    # grids of the weights before the first column was rounded (a zero point is never 0: one step may be more)
    assert torch.allclose(static.unpacked()[1].float(), reach, rtol=0.1)
    assert static.said["static_groups"] is True
    assert static.reads_back()


def test_true_sequential_lets_later_stages_see_the_rounded_ones_before(tiny: Path) -> None:
    staged, at_once = gptq_made(tiny, "staged", true_sequential=True), gptq_made(tiny, "at_once")
    first = "model.layers.0.self_attn.q_proj.qweight"
    assert torch.equal(staged.tensors[first], at_once.tensors[first])  # nothing is rounded before it
    for later in ("self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
        name = f"model.layers.0.{later}.qweight"
        assert not torch.equal(staged.tensors[name], at_once.tensors[name])
    assert (staged.said["true_sequential"], at_once.said["true_sequential"]) == (True, False)


NAMES = {
    "layers_block_name": "model.layers",
    "outside_layer_modules": ["model.embed_tokens", "model.norm"],
    "inside_layer_modules": [["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"], ["mlp.down_proj"]],
}


def test_inside_layer_modules_choose_the_linears_of_a_known_architecture(tiny: Path) -> None:
    made = gptq_made(tiny, true_sequential=True, **NAMES)
    kinds = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "mlp.down_proj"}
    assert {module.name.split(".", 3)[3] for module in made.report.linears} == kinds
    before = load_file(tiny / "model.safetensors")
    for kept in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"):
        name = f"model.layers.1.{kept}.weight"
        assert torch.equal(made.tensors[name], before[name])
    assert made.said["modules_in_block_to_quantize"] == NAMES["inside_layer_modules"]
    assert made.reads_back()


def test_the_names_of_a_known_architecture_change_nothing(tiny: Path) -> None:
    names = {name: NAMES[name] for name in ("layers_block_name", "outside_layer_modules")}
    plain, named = gptq_made(tiny, "plain"), gptq_made(tiny, "named", **names)
    assert plain.config == named.config
    assert plain.tensors.keys() == named.tensors.keys()
    assert all(torch.equal(plain.tensors[name], named.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"layers_block_name": "model.blocks"}, "layers_block_name names model.blocks, which a llama model"),
        ({"outside_layer_modules": ["model.wte"]}, "outside_layer_modules names model.wte"),
        ({"inside_layer_modules": [["mlp.fc1"]]}, "inside_layer_modules names mlp.fc1, which is no linear"),
    ],
)
def test_names_that_a_model_does_not_have_are_refused(
    parameters: dict[str, Any], sentence: str, tiny: Path
) -> None:
    with pytest.raises(QuantizationError, match=sentence) as caught:
        gptq_made(tiny, **parameters)
    assert caught.value.category is Category.INVALID_WORKFLOW


@pytest.mark.parametrize("sym", [False, True])
def test_checkpoint_formats_hold_the_same_weights(sym: bool, tiny: Path) -> None:
    formats = ("gptq", "gptq_v2", "compressed-tensors")
    made = {name: gptq_made(tiny, name, checkpoint_format=name, sym=sym) for name in formats}
    first = made["gptq"]
    for name, one in made.items():
        for ours, theirs in zip(one.unpacked()[:3], first.unpacked()[:3], strict=True):
            assert torch.equal(ours, theirs), name
        view = open_view(DirectorySource(one.folder), CPU)
        tokens = random_batches(4, seed=2).batches()[0]
        expected = view_logits(open_view(DirectorySource(first.folder), CPU), tokens)
        assert torch.equal(view_logits(view, tokens), expected), name
    assert [one.said["quant_method"] for one in made.values()] == ["gptq", "gptq", "compressed-tensors"]
    assert made["gptq"].said["checkpoint_format"] == "gptq"
    assert made["gptq_v2"].said["checkpoint_format"] == "gptq_v2"
    assert not torch.equal(made["gptq"].tensors[f"{UP}.qzeros"], made["gptq_v2"].tensors[f"{UP}.qzeros"])
    assert (made["compressed-tensors"].folder / "quantize_config.json").exists() is False


def test_modules_to_not_convert_stay_float_and_are_scaled_all_the_same(tiny: Path) -> None:
    made = awq_made(tiny, modules_to_not_convert=["up_proj", "layers.0.self_attn.v_proj"])
    left_out = ["model.layers.0.self_attn.v_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    assert sorted(made.said["modules_to_not_convert"]) == sorted(left_out)
    assert {module.name for module in made.report.linears} & set(left_out) == set()
    assert len(made.report.linears) == 14 - 3
    before = load_file(tiny / "model.safetensors")
    for name in left_out:
        assert f"{name}.qweight" not in made.tensors
        assert not torch.equal(made.tensors[f"{name}.weight"], before[f"{name}.weight"])  # scales were put in
    assert made.reads_back()


def test_a_model_of_which_nothing_is_converted_is_refused(tiny: Path) -> None:
    with pytest.raises(QuantizationError, match="no linear of the model is left to quantize") as caught:
        awq_made(tiny, modules_to_not_convert=["layers"])
    assert caught.value.category is Category.INVALID_WORKFLOW


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_input_model_dtype_is_what_stays_unquantized(name: str, dtype: torch.dtype, tiny: Path) -> None:
    made = awq_made(tiny, input_model_dtype=name)
    kept = {key: value for key, value in made.tensors.items() if key.endswith(".weight")}
    assert {"model.norm.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight"} <= set(kept)
    assert {value.dtype for value in kept.values()} == {dtype}
    assert made.config["dtype"] == str(dtype).removeprefix("torch.")
    assert made.reads_back()


def test_a_weight_that_fp16_cannot_hold_says_so(tiny: Path) -> None:
    edit_tensors(tiny, lambda tensors: tensors["model.norm.weight"].mul_(1e6))
    with pytest.raises(
        QuantizationError, match=r"model\.norm\.weight has values that are too large"
    ) as caught:
        awq_made(tiny, input_model_dtype="fp16")
    assert caught.value.category is Category.NUMERICAL_FAILURE
    assert "fp32" in (caught.value.hint or "")


def test_duo_scaling_weighs_the_weights_as_well(tiny: Path) -> None:
    duo, alone = awq_made(tiny, "duo"), awq_made(tiny, "alone", duo_scaling=False)
    name = "model.layers.0.input_layernorm.weight"
    assert not torch.equal(duo.tensors[name], alone.tensors[name])
    assert duo.reads_back()
    assert alone.reads_back()


def test_without_zero_points_every_one_is_the_middle(tiny: Path) -> None:
    with_them, without = awq_made(tiny, "with"), awq_made(tiny, "without", zero_point=False)
    assert (with_them.said["zero_point"], without.said["zero_point"]) == (True, False)
    assert set(without.unpacked()[2].flatten().tolist()) == {8}
    assert len(set(with_them.unpacked()[2].flatten().tolist())) > 1
    assert without.reads_back()


@pytest.mark.parametrize(("group_size", "groups"), [(16, 4), (64, 1), (-1, 1)])
def test_q_group_size_is_how_many_inputs_share_a_scale(group_size: int, groups: int, tiny: Path) -> None:
    made = awq_made(tiny, q_group_size=group_size)
    assert made.unpacked()[1].shape == (128, groups)
    assert made.said["group_size"] == group_size
    assert made.reads_back()


@pytest.mark.parametrize("bits", [{"w_bit": 4}, {"bits": 4}, {}])
def test_both_words_for_bits_mean_the_same(bits: dict[str, int], tiny: Path) -> None:
    assert awq_made(tiny, **bits).said["bits"] == 4


VERSIONS = {
    "gemm": {"q_group_size": 128},
    "gemv": {"q_group_size": 128},
    "gemv_fast": {"q_group_size": 128},
    "marlin": {"q_group_size": 128, "zero_point": False},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_a_layout_that_reads_back(version: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_key_value_heads": 4}
    save_tiny(tmp_path / "model", initializer_range=0.1, num_hidden_layers=1, **sizes)
    made = awq_made(tmp_path / "model", version=version, **VERSIONS[version])
    assert made.said["version"] == version
    assert made.reads_back()


def test_versions_hold_the_same_weights_in_different_places(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_key_value_heads": 4}
    save_tiny(tmp_path / "model", initializer_range=0.1, num_hidden_layers=1, **sizes)
    gemm, gemv = (awq_made(tmp_path / "model", v, version=v, q_group_size=128) for v in ("gemm", "gemv"))
    linear = "model.layers.0.mlp.up_proj"
    assert torch.equal(gemm.unpacked(linear)[0], gemv.unpacked(linear)[0])
    assert not torch.equal(gemm.tensors[f"{linear}.qweight"], gemv.tensors[f"{linear}.qweight"])
    symmetric = {"q_group_size": 128, "zero_point": False}
    marlin = awq_made(tmp_path / "model", "marlin", version="marlin", **symmetric)
    plain = awq_made(tmp_path / "model", "plain", version="gemm", **symmetric)
    assert torch.equal(marlin.unpacked(linear)[0], plain.unpacked(linear)[0])


def test_export_compatible_is_an_ordinary_float_model(tiny: Path) -> None:
    made = awq_made(tiny, export_compatible=True)
    assert "quantization_config" not in made.config
    assert not (made.folder / "quantize_config.json").exists()
    before = load_file(tiny / "model.safetensors")
    assert made.tensors.keys() == before.keys()
    assert {name: value.shape for name, value in made.tensors.items()} == {
        name: value.shape for name, value in before.items()
    }
    assert made.report.bits_per_weight == 32
    assert made.reads_back()


def error_of(made: Made) -> float:
    """Of all linears, relative to their outputs."""
    return sum(module.error for module in made.report.linears)


def test_refine_lowers_the_error_of_gptq_at_the_same_size(tiny: Path) -> None:
    plain, refined = (gptq_made(tiny, level, sym=True, refine=level) for level in ("none", "standard"))
    assert error_of(refined) < 0.9 * error_of(plain)
    assert refined.report.output_bytes == plain.report.output_bytes
    assert refined.reads_back()


def test_refine_does_nothing_beyond_four_bits(tiny: Path) -> None:
    plain, refined = (gptq_made(tiny, level, bits=8, refine=level) for level in ("none", "standard"))
    assert all(torch.equal(tensor, refined.tensors[name]) for name, tensor in plain.tensors.items())


@pytest.mark.parametrize("bits", [3, 8])
def test_a_fitted_layer_goes_stage_by_stage_and_is_read_back(bits: int, tiny: Path) -> None:
    fitted = gptq_made(tiny, bits=bits, refine="best")
    assert fitted.report.calibration_dtype == torch.float32
    assert fitted.reads_back()


@pytest.mark.parametrize(("version", "zero_point"), [("gemm", False), ("gemm", True), ("gemv_fast", True)])
def test_refined_awq_rounds_the_scaled_weights_with_gptq_in_the_same_layout(
    version: str, zero_point: bool, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model", hidden_size=256, intermediate_size=256, initializer_range=0.1)
    sizes = {"q_group_size": 128, "version": version, "zero_point": zero_point}
    plain, refined = (
        awq_made(tmp_path / "model", level, refine=level, **sizes) for level in ("none", "standard")
    )
    assert {name: tensor.shape for name, tensor in refined.tensors.items()} == {
        name: tensor.shape for name, tensor in plain.tensors.items()
    }
    assert refined.said == plain.said
    assert error_of(refined) < 0.9 * error_of(plain)
    assert {module.damping for module in refined.report.linears} == {0.01}
    assert refined.reads_back()


def test_quarots_gptq_is_refined_by_default(tiny: Path) -> None:
    made = [
        Made(
            tiny,
            f"quarot-{level}",
            quarot_pass(w_groupsize=32, **({} if level is None else {"refine": level})),
        )
        for level in ("none", None)
    ]
    assert error_of(made[1]) < 0.95 * error_of(made[0])
    assert made[1].reads_back()
