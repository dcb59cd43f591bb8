"""A run whose bits are chosen: what the manifest, the card and the report say of it, and what it is compared with."""

from pathlib import Path

import pytest
import yaml
from tests.support.engine import CPU, ignore_progress, save_tiny_reader
from tests.support.quantizer_requests import Request, run_here

from quantization_api.failures import Category
from quantization_api.pod import StorageAccess
from quantizer.run.verification import verify

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("written", ["gptq", "compressed-tensors"])
def test_the_artifact_is_verified_and_says_which_bits_it_has(written: str, tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model", initializer_range=0.2)
    options = {"target_bits": 5.5, "candidate_bits": [4, 8], "sym": True, "checkpoint_format": written}
    asked = Request(
        f"file://{tmp_path}/out", model=f"file://{tmp_path}/model", samples=4, pass_options=options
    )
    ended = run_here(asked, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    manifest = verify(f"file://{tmp_path}/out", StorageAccess(), CPU, tmp_path, ignore_progress).manifest
    assert {module.bits for module in manifest.modules} == {4, 8}
    assert manifest.bits_per_weight <= 5.5
    assert "vLLM" in manifest.readers
    assert all(module.error <= 1.02 * module.error_rtn for module in manifest.modules)
    figures = {item.name: item for item in manifest.metrics}
    assert "rtn_kl_divergence" in figures
    card = (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["gptq", "4-bit", "8-bit", "quantized"]
    assert f"# model, GPTQ {manifest.bits_per_weight:.2f} bits" in card
    assert (
        '<th scope="col">bits</th><th scope="col">group size</th>'
        in (tmp_path / "out/report/report.html").read_text()
    )
    few = sum(module.bits == 4 for module in manifest.modules)
    assert f"4 bits in {few} linears, 8 bits in {14 - few}" in " ".join(card.split())


def test_a_target_that_is_too_small_ends_as_an_invalid_workflow(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model")
    asked = Request(
        f"file://{tmp_path}/out",
        model=f"file://{tmp_path}/model",
        samples=4,
        pass_options={"target_size": "1Ki"},
    )
    failure = run_here(asked, tmp_path / "scratch").result.failure
    assert failure is not None
    assert failure.category is Category.INVALID_WORKFLOW
    assert "target_size 1,024 bytes is too small" in failure.message
    assert "Raise the target to" in failure.hint
