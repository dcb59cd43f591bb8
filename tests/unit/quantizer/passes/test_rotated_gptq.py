"""QuaRot and then GPTQ, in one walk: what GPTQ calibrates on and rounds is the rotated layer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.decoder_families import FAMILIES, relative
from tests.support.engine import (
    CPU,
    edit_tensors,
    files,
    gptq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import (
    GROUP,
    as_float,
    family_batches,
    save_family,
    transformers_logits,
    view_logits,
)

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.architecture import ModuleNames
from quantizer.evaluation.views import open_view
from quantizer.passes import mixed_gptq
from quantizer.passes.interface import LayerPass
from quantizer.passes.making import weight_pass
from quantizer.passes.sensitivity import Tie, measure
from quantizer.passes.written import schemes_of

pytestmark = pytest.mark.unit

NOT_ROTATED = ("gemma2", "gemma3_text", "bloom")
ROTATED = [name for name, (model_type, _) in FAMILIES.items() if model_type not in NOT_ROTATED]
PARAMETERS: dict[str, dict[str, Any]] = {
    "3 bits, whole rows": {"bits": 3, "group_size": -1},
    "8 bits, symmetric": {"bits": 8, "sym": True},
    "act-order": {"desc_act": True},
    "act-order on static groups": {"desc_act": True, "static_groups": True},
    "stage by stage, v2": {"true_sequential": True, "checkpoint_format": "gptq_v2"},
    "compressed-tensors, in bfloat16": {
        "sym": True, "checkpoint_format": "compressed-tensors", "calibration_dtype": "bf16",
    },
    "more damping": {"damp_percent": 0.2},
    "bits that are chosen": {"target_bits": 5},
}  # fmt: skip


def rotation(**parameters: Any) -> Any:
    """A QuaRot that rotates and rounds nothing, in float32."""
    none = {"w_gptq": False, "w_bits": 16, "calibration_data_config": None, "input_model_dtype": "fp32"}
    return quarot_pass(**{**none, **parameters})


def both(rotated_by: dict[str, Any] | None = None, **parameters: Any) -> LayerPass:
    """The two passes as one."""
    return make_pass(rotation(**(rotated_by or {})), gptq_pass(**{"group_size": GROUP, **parameters}))


def run(folder: Path, layer_pass: LayerPass, model: str = "model", out: str = "out", **options: Any) -> Any:
    """A pass over the model of a folder."""
    source = DirectorySource(folder / model)
    tokens = options.pop("tokens", None) or family_batches()
    return run_layers(source, tokens, layer_pass, folder / out, folder / "scratch", **options)


@pytest.mark.parametrize("name", ROTATED)
def test_every_architecture_that_can_be_rotated_is_rounded_after_it(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    report = run(tmp_path, both(bits=8))
    assert all(0 < module.error <= 1.05 * module.error_rtn < 1 for module in report.linears)
    tokens = family_batches(4, seed=4).batches()[0]
    plain = transformers_logits(tmp_path / "model", tokens)
    as_float(tmp_path / "out", tmp_path / "float", by_inputs=name.startswith("gpt2"))
    theirs = transformers_logits(tmp_path / "float", tokens)
    seen = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU), tokens)
    assert relative(seen, theirs) < 1e-3
    # eight bits move logits, and but a little; the median, for a router may send a token elsewhere
    assert 1e-6 < float((seen - plain).abs().median() / plain.abs().max()) < 0.01
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_result_is_that_of_gptq_on_the_rotated_model(name: str, tmp_path: Path) -> None:
    """Whatever GPTQ is told: the walk does what two jobs would, the second on what the first stored."""
    save_tiny(tmp_path / "model", tie_word_embeddings=True)
    # of few digits, so that no type of the calibration cuts them before they are rotated
    edit_tensors(
        tmp_path / "model", lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()})
    )
    parameters = {"group_size": GROUP, "calibration_dtype": "fp32", **PARAMETERS[name]}
    tokens = random_batches()
    run(tmp_path, make_pass(rotation(rotation_seed=7)), out="rotated", tokens=tokens)
    second = make_pass(gptq_pass(**parameters))
    run(tmp_path, second, model="rotated", out="two", tokens=tokens)
    run(tmp_path, both({"rotation_seed": 7}, **parameters), out="one", tokens=tokens)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("name", ["gpt2", "opt", "qwen3"])
def test_bits_are_chosen_by_what_the_rotated_linears_do_to_the_output(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the norms and the head around the layers are: as for a rotated model that was stored."""
    measured: list[list[Tie]] = []

    def watched(*arguments: Any) -> list[Tie]:
        measured.append(measure(*arguments))
        return measured[-1]

    monkeypatch.setattr(mixed_gptq, "measure", watched)
    save_family(name, tmp_path / "model")
    parameters = {"target_bits": 6, "checkpoint_format": "compressed-tensors", "calibration_dtype": "fp32"}
    run(tmp_path, make_pass(rotation()), out="rotated")
    run(tmp_path, make_pass(gptq_pass(group_size=GROUP, **parameters)), model="rotated", out="two")
    report = run(tmp_path, both(**parameters))
    stored, on_the_way = measured
    for one, other in zip(on_the_way, stored, strict=True):
        assert one.names == other.names
        assert one.errors == pytest.approx(other.errors, rel=1e-3)
        assert one.divergence == pytest.approx(other.divergence, rel=1e-3)
    assert len(set(schemes_of(report.linears).values())) > 1
    assert 5.5 < report.bits_per_weight <= 6


def test_a_target_of_the_size_counts_the_head_that_a_rotation_unties(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=True)
    target = 120_000
    report = run(tmp_path, both(target_size=target), tokens=random_batches())
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert "lm_head.weight" in load_file(tmp_path / "out/model.safetensors")
    assert size == report.output_bytes
    assert 0.9 * target <= size <= target


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_linear_that_is_not_named_is_rotated_and_stays_in_float(name: str, tmp_path: Path) -> None:
    """The rotation is of the whole layer, whichever linears GPTQ is to round."""
    save_family(name, tmp_path / "model")
    down = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj", "opt": "fc2"}[name]
    names = ModuleNames(inside_layer_modules=((down,),))
    chosen = weight_pass(rotation(), gptq_pass(group_size=GROUP, bits=8, inside_layer_modules=[[down]]))
    assert chosen.modules == names
    report = run(tmp_path, chosen.layer_pass, modules=names)
    assert {
        module.name.partition(".0.")[2] or module.name.partition(".1.")[2] for module in report.linears
    } == {down}
    tokens = family_batches(4, seed=4).batches()[0]
    plain = transformers_logits(tmp_path / "model", tokens)
    seen = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU, names), tokens)
    assert 1e-6 < float((seen - plain).abs().median() / plain.abs().max()) < 0.01
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "out"))
    others = [key for key in before if key in after and before[key].ndim == 2]
    assert others
    assert not [key for key in others if torch.equal(before[key], after[key])]


def test_what_stands_out_costs_gptq_less_after_a_rotation(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", hidden_size=128)

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name in [
            key for key in tensors if key.endswith(("q_proj.weight", "up_proj.weight", "v_proj.weight"))
        ]:
            tensors[name][:, [5, 11]] *= 20.0

    edit_tensors(tmp_path / "model", widen)
    tokens = random_batches(4, seed=4).batches()[0]
    plain = transformers_logits(tmp_path / "model", tokens)

    def distance(layer_pass: LayerPass, out: str) -> float:
        run(tmp_path, layer_pass, out=out, tokens=random_batches())
        seen = view_logits(open_view(DirectorySource(tmp_path / out), CPU), tokens)
        return float((seen - plain).square().mean())

    alone = distance(make_pass(gptq_pass(group_size=-1, bits=4)), "alone")
    assert distance(both(group_size=-1, bits=4), "rotated") < 0.7 * alone


@pytest.mark.parametrize(
    ("asked", "stored"), [("fp16", torch.float16), ("bf16", torch.bfloat16), (None, torch.float16)]
)
def test_what_is_not_rounded_has_the_type_that_quarot_is_told(
    asked: str | None, stored: torch.dtype, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=True)
    run(tmp_path, both({"input_model_dtype": asked}), tokens=random_batches())
    found = load_file(tmp_path / "out/model.safetensors")
    assert {found[name].dtype for name in found if "norm" in name or "embed" in name} == {stored}
    assert found["lm_head.weight"].dtype is stored
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == (str(stored).removeprefix("torch."), False)


@pytest.mark.parametrize("name", ["gemma2", "bloom"])
def test_a_model_that_cannot_be_rotated_is_refused_before_anything_is_computed(
    name: str, tmp_path: Path
) -> None:
    modules = save_family(name, tmp_path / "model")
    with pytest.raises(QuantizationError) as caught:
        run(tmp_path, both(), modules=modules)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert "GptqQuantizer" in caught.value.hint
    assert "without QuaRot" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_the_artifact_is_one_of_gptq_with_both_names() -> None:
    chosen = weight_pass(rotation(), gptq_pass(bits=3, checkpoint_format="compressed-tensors", sym=True))
    assert chosen.methods == ("QuaRot", "GPTQ")
    assert (chosen.written.layout, chosen.written.bits) == ("compressed-tensors", 3)
    assert (chosen.data_config, chosen.needs_text, chosen.package) == ("text", True, None)
