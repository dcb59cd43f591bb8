"""What a pass is compared with: RTN with the same numbers of bits, of weights, activations and cache, unrotated."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.choice import mostly_nightly
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, run_here

from quantization_api.manifest import MANIFEST_NAME, Manifest

pytestmark = pytest.mark.unit

RTN = {"w_bits": 4, "w_rtn": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose logits follow every weight."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_reader(folder, initializer_range=0.2)
    return folder


def figures(model: Path, folder: Path, **parameters: Any) -> dict[str, float | None]:
    """The metrics of a QuaRot run, by name."""
    layer_pass = {"type": "QuaRot", "input_model_dtype": "fp32", **parameters}
    request = Request(f"file://{folder / 'out'}", f"file://{model}", layer_pass=layer_pass)
    ended = run_here(request, folder / "scratch")
    assert ended.code == 0, ended.log
    manifest = Manifest.model_validate_json((folder / "out" / MANIFEST_NAME).read_text())
    return {metric.name: metric.output for metric in manifest.metrics}


ROUNDED = [
    RTN,
    {**RTN, "a_bits": 4},
    {**RTN, "a_bits": 4, "a_asym": True, "a_clip_ratio": 0.9, "a_groupsize": 32},
    {**RTN, "k_bits": 4},
    {**RTN, "v_bits": 3, "v_groupsize": 8},
    {**RTN, "s_bits": 4, "w_groupsize": 32},
    {**RTN, "a_bits": 4, "k_bits": 4, "v_bits": 4, "w_asym": True},
    {"a_bits": 4},
]


@pytest.mark.parametrize("parameters", mostly_nightly(ROUNDED, (RTN, *ROUNDED[-2:])), ids=str)
def test_a_pass_that_only_rounds_to_nearest_is_its_own_rtn(
    model: Path, tmp_path: Path, parameters: dict[str, Any]
) -> None:
    found = figures(model, tmp_path, rotate=False, **parameters)
    assert found["kl_divergence"]
    assert found["rtn_kl_divergence"] == pytest.approx(found["kl_divergence"], rel=1e-4)
    assert found["rtn_perplexity"] == pytest.approx(found["perplexity"], rel=1e-4)


def test_rtn_beside_a_rotation_is_not_rotated(model: Path, tmp_path: Path) -> None:
    rounding = {**RTN, "a_bits": 4, "k_bits": 4, "v_bits": 4}
    plain = figures(model, tmp_path / "plain", rotate=False, **rounding)
    rotated = figures(model, tmp_path / "rotated", rotate=True, **rounding)
    assert rotated["rtn_kl_divergence"] == plain["rtn_kl_divergence"]
    assert rotated["kl_divergence"] != plain["kl_divergence"]


def test_a_rotation_that_rounds_nothing_has_no_rtn(model: Path, tmp_path: Path) -> None:
    assert not [name for name in figures(model, tmp_path, rotate=True) if name.startswith("rtn_")]
