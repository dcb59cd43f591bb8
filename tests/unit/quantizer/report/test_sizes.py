"""How sizes are told: larger is larger, and what is not quantized is not given as bits of a quantized weight."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import (
    awq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
    save_tiny_reader,
)
from tests.support.quantizer_requests import Request, run_here

from quantization_api.manifest import MANIFEST_NAME, Manifest
from quantizer.checkpoint.source import DirectorySource

pytestmark = pytest.mark.unit

ROTATED = {"type": "QuaRot", "rotate": True, "input_model_dtype": "fp32"}


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (3.2, "3.20 times smaller"),
        (0.76, "1.32 times larger"),
        (1.0, "the same size"),
        (1.004, "the same size"),
        (0.9966, "the same size"),
        (1.01, "1.01 times smaller"),
    ],
)
def test_a_larger_artifact_is_not_called_smaller(ratio: float, said: str) -> None:
    from quantizer.report.sizes import change

    assert change(ratio) == said


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left that rotates a tied model and rounds nothing."""
    folder = tmp_path_factory.mktemp("rotated")
    save_tiny_reader(folder / "model")
    request = Request(f"file://{folder}/out", f"file://{folder}/model", layer_pass=ROTATED)
    ended = run_here(request, folder / "scratch")
    assert ended.code == 0, ended.log
    return folder / "out"


@pytest.mark.parametrize("name", ["README.md", "report/report.html"])
def test_a_rotation_that_unties_the_head_says_why_the_model_grew(rotated: Path, name: str) -> None:
    text = (rotated / name).read_text()
    manifest = Manifest.model_validate_json((rotated / MANIFEST_NAME).read_text())
    assert manifest.compression_ratio < 1
    assert "times larger" in text
    assert "times smaller" not in text
    assert "for a head of its own" in text
    assert "no weight is quantized, each takes 32 bits" in text
    assert "quantized weight," not in text
    assert "32-bit" not in text
    assert "16-bit" not in text


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("make", [quarot_pass, awq_pass], ids=["quarot", "awq"])
def test_where_nothing_is_packed_the_bits_are_those_of_the_stored_type(
    make: Any, dtype: str, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model", hidden_size=128, intermediate_size=128)
    options = {"export_compatible": True, "q_group_size": 32}
    if make is quarot_pass:
        options = {"w_gptq": False, "w_bits": 16, "calibration_data_config": None}
    report = run_layers(
        DirectorySource(tmp_path / "model"),
        random_batches(),
        make_pass(make(input_model_dtype=dtype, **options)),
        tmp_path / "out",
        tmp_path / "scratch",
    )
    assert report.bits_per_weight == int(dtype.removeprefix("fp"))


@pytest.mark.parametrize("tied", [True, False])
def test_only_a_head_that_was_tied_counts_as_new(tied: bool, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=tied)
    report = run_layers(
        DirectorySource(tmp_path / "model"),
        random_batches(),
        make_pass(quarot_pass(input_model_dtype="fp16")),
        tmp_path / "out",
        tmp_path / "scratch",
    )
    assert report.own_head_bytes == (96 * 64 * 2 if tied else 0)
