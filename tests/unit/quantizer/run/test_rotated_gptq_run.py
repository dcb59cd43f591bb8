"""A workflow of QuaRot and then GPTQ from the request to the artifact: what is published, said of it, and verified."""

from pathlib import Path

import pytest
import torch
import yaml
from tests.support.engine import CPU, edit_tensors, ignore_progress, save_tiny_reader
from tests.support.quantizer_requests import Request, run_here

from quantization_api.failures import Category
from quantization_api.pod import StorageAccess
from quantizer.run.verification import verify

pytestmark = pytest.mark.unit


def request(folder: Path, **options: object) -> Request:
    """QuaRot, then GPTQ in groups of 32, on the model of the folder."""
    values = {"first": {"type": "QuaRot"}, "model": f"file://{folder}/model", "samples": 4, **options}
    return Request(f"file://{folder}/out", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["gptq", "compressed-tensors"])
def test_both_passes_stand_in_manifest_and_card_and_the_artifact_is_verified(
    written: str, tmp_path: Path
) -> None:
    save_tiny_reader(tmp_path / "model")
    asked = request(tmp_path, pass_options={"sym": True, "checkpoint_format": written})
    ended = run_here(asked, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    verified = verify(f"file://{tmp_path}/out", StorageAccess(), CPU, tmp_path, ignore_progress)
    manifest = verified.manifest
    assert manifest.passes == ["QuaRot", "GptqQuantizer"]
    assert manifest.checkpoint_format == written
    assert {"vLLM", "SGLang"} <= set(manifest.readers)
    assert len(manifest.modules) == 2 * 7
    figures = {item.name: item for item in manifest.metrics}
    assert figures["perplexity"].output == pytest.approx(figures["perplexity"].input, rel=0.05)
    assert "rtn_kl_divergence" in figures
    card = (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["quarot", "gptq", "4-bit", "quantized"]
    assert "# model, QuaRot and GPTQ 4 bits" in card
    assert "type: QuaRot" in card
    assert "QuaRot, GptqQuantizer" in (tmp_path / "out/report/report.html").read_text()


def test_linears_that_are_not_named_stay_in_float_and_the_artifact_is_verified(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model")
    options = {"inside_layer_modules": [["mlp.gate_proj", "mlp.up_proj"]], "sym": True}
    ended = run_here(request(tmp_path, pass_options=options), tmp_path / "scratch")
    assert ended.code == 0, ended.log
    found = verify(f"file://{tmp_path}/out", StorageAccess(), CPU, tmp_path, ignore_progress).manifest
    assert {module.name.rpartition(".")[2] for module in found.modules} == {"gate_proj", "up_proj"}


def test_a_value_that_the_type_of_the_artifact_cannot_hold_is_a_failure_with_its_cure(tmp_path: Path) -> None:
    """Not a checkpoint with infinities: QuaRot stores a float32 model in float16 unless the manifest says otherwise."""
    save_tiny_reader(tmp_path / "model")

    def enlarge(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"] *= 1e7

    edit_tensors(tmp_path / "model", enlarge)
    failure = run_here(request(tmp_path), tmp_path / "scratch").result.failure
    assert failure is not None
    assert failure.category is Category.NUMERICAL_FAILURE
    assert "input_model_dtype: bf16 or fp32" in failure.hint
