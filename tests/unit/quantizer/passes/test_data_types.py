"""The data type that an artifact is stored in: the model's own unless a manifest says otherwise, and wide enough."""

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
    save_tiny_reader,
    store_in,
)
from tests.support.quantized_models import family_batches, save_family
from tests.support.quantizer_requests import Request, run_here
from transformers import AutoModelForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import Manifest
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import read_config
from quantizer.evaluation.own_dtype import run_in_own_dtype
from quantizer.passes.data_type import check_range

pytestmark = pytest.mark.unit

PASSES = {"awq": lambda **options: awq_pass(q_group_size=16, **options), "quarot": quarot_pass}
LOUD = 3e4
"""Makes Gemma's embedded tokens, and with them its residual stream, larger than float16 holds."""


def loud_gemma(target: Path, dtype: torch.dtype) -> Path:
    save_family("gemma3", target, tie_word_embeddings=False)
    edit_tensors(target, lambda tensors: tensors["model.embed_tokens.weight"].mul_(LOUD))
    store_in(target, dtype)
    return target


def run(model: Path, parameters: Any, tokens: TokenBatches | None = None) -> QuantizeReport:
    return run_layers(
        DirectorySource(model),
        tokens or random_batches(),
        make_pass(parameters),
        model.parent / "out",
        model.parent / "scratch",
    )


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.float16),  # Olive's default
    ],
)
def test_a_pass_keeps_bfloat16_and_stores_the_others_as_olive_does(
    name: str, given: torch.dtype, stored: torch.dtype, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model")
    store_in(tmp_path / "model", given)
    report = run(tmp_path / "model", PASSES[name]())
    kept = {
        key: value.dtype
        for key, value in load_file(tmp_path / "out/model.safetensors").items()
        if key.endswith(".weight")
    }
    assert set(kept.values()) == {stored}
    assert report.stored_in == str(stored).removeprefix("torch.")
    assert read_config(DirectorySource(tmp_path / "out"))["dtype"] == str(stored).removeprefix("torch.")


def test_a_model_beyond_float16_stays_a_model(tmp_path: Path) -> None:
    model = loud_gemma(tmp_path / "model", torch.bfloat16)
    report = run(model, awq_pass(q_group_size=16, export_compatible=True), family_batches())
    assert report.largest_activation is not None
    assert report.largest_activation > torch.finfo(torch.float16).max
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert read.dtype is torch.bfloat16
    assert read(family_batches().sequences[0][None]).logits.isfinite().all()
    run_in_own_dtype(
        DirectorySource(tmp_path / "out"), family_batches(), CPU, ignore_progress, tmp_path / "scratch"
    )


@pytest.mark.parametrize(
    ("given", "parameters", "cure"),
    [
        (torch.bfloat16, awq_pass(q_group_size=16, input_model_dtype="fp16"), "input_model_dtype: bf16"),
        (torch.float32, awq_pass(q_group_size=16), "input_model_dtype: bf16"),
        (torch.float16, gptq_pass(group_size=16), "Save the model in bfloat16"),
    ],
    ids=["asked for", "by default", "the model's own"],
)
def test_activations_beyond_the_stored_type_end_the_run_at_the_layer(
    given: torch.dtype, parameters: Any, cure: str, tmp_path: Path
) -> None:
    model = loud_gemma(tmp_path / "model", given)
    with pytest.raises(
        QuantizationError, match=r"by decoder layer 0, but float16, .* ends at 65,504"
    ) as caught:
        run(model, parameters, family_batches())
    assert caught.value.category is Category.NUMERICAL_FAILURE
    assert cure in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("dtype", "category"), [("fp16", Category.NUMERICAL_FAILURE), ("bf16", None), (None, None)]
)
def test_what_is_published_was_run_in_its_own_type(
    dtype: str | None, category: Category | None, tmp_path: Path
) -> None:
    """gate * up leaves the range of float16 within a layer: between layers, and in float32, all looks healthy."""
    save_tiny_reader(tmp_path / "model")

    def stretch(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                value.mul_(3e3)
            elif name.endswith("down_proj.weight"):
                value.mul_(0.05)

    edit_tensors(tmp_path / "model", stretch)
    store_in(tmp_path / "model", torch.bfloat16)
    asked = {"input_model_dtype": dtype} if dtype else {}
    ended = run_here(
        Request(
            f"file://{tmp_path}/out",
            model=f"file://{tmp_path}/model",
            layer_pass={
                "type": "AutoAWQQuantizer",
                "data_config": "calibration",
                "q_group_size": 32,
                **asked,
            },
        ),
        tmp_path / "scratch",
    )
    failure = ended.result.failure
    assert (failure.category if failure else None) == category, ended.log
    if failure:
        assert "not finite in float16, its own data type" in failure.message
        assert "bf16" in failure.hint


def test_the_card_names_the_types_that_are_stored(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model")

    def mixed(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if "norm" not in name:
                tensors[name] = value.half()

    edit_tensors(tmp_path / "model", mixed)
    given, stored = {}, {}
    for name, layer_pass in {
        "gptq": None,
        "rtn": {"type": "QuaRot", "rotate": False, "w_rtn": True, "w_bits": 4},
    }.items():
        out = tmp_path / name
        ended = run_here(
            Request(f"file://{out}", model=f"file://{tmp_path}/model", layer_pass=layer_pass, metrics=[]),
            tmp_path / "scratch",
        )
        assert ended.code == 0, ended.log
        manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
        given[name], stored[name] = manifest.input.dtype, manifest.dtype
        card = (out / "README.md").read_text()
        assert f"in {stored[name]}" in card
        title = next(line for line in card.splitlines() if line.startswith("# model"))
        assert title == f"# model, {name.upper()} 4 bits"
    assert given == {"gptq": "float16 and float32", "rtn": "float16 and float32"}
    assert stored == {"gptq": "float16 and float32", "rtn": "float16"}


def test_a_value_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(QuantizationError, match="activations reach nan"):
        check_range(float("nan"), torch.float32, 3, "")
