"""config.json of an artifact names the data type that is stored, also where that of the input names another."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import edit_tensors, save_tiny_reader
from tests.support.quantizer_requests import Request, run_here
from torch import Tensor

pytestmark = pytest.mark.unit

GPTQ = {"type": "GptqQuantizer", "data_config": "calibration", "group_size": 16}
AWQ = {"type": "AutoAWQQuantizer", "data_config": "calibration", "q_group_size": 16}


def in_bfloat16(folder: Path, said: dict[str, Any]) -> None:
    save_tiny_reader(folder)

    def convert(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: value.to(torch.bfloat16) for name, value in tensors.items()})

    edit_tensors(folder, convert)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("dtype", "torch_dtype"):
        config.pop(key, None)
    path.write_text(json.dumps(config | said))


@pytest.mark.parametrize("layer_pass", [GPTQ, AWQ], ids=["gptq", "awq"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_config_that_names_a_type_that_no_tensor_has_is_corrected(
    key: str, layer_pass: dict[str, Any], tmp_path: Path
) -> None:
    in_bfloat16(tmp_path / "model", {key: "float16"})
    config, remarks = quantized(tmp_path, layer_pass)
    assert {name: config.get(name) for name in ("dtype", "torch_dtype")} == {
        "dtype": "bfloat16",
        "torch_dtype": None,
    }
    assert any("config.json says float16, but the weights are in bfloat16" in remark for remark in remarks)


@pytest.mark.parametrize("said", [{}, {"torch_dtype": "bfloat16"}], ids=["nothing", "the truth"])
def test_a_config_that_says_nothing_wrong_is_left_alone(said: dict[str, str], tmp_path: Path) -> None:
    in_bfloat16(tmp_path / "model", said)
    config, remarks = quantized(tmp_path, GPTQ)
    assert {name: config[name] for name in ("dtype", "torch_dtype") if name in config} == said
    assert remarks == []


def quantized(tmp_path: Path, layer_pass: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """config.json of the artifact, and the remarks of its manifest."""
    output = tmp_path / "out"
    request = Request(f"file://{output}", f"file://{tmp_path / 'model'}", layer_pass=layer_pass, metrics=[])
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    manifest = json.loads((output / "manifest.json").read_text())
    return json.loads((output / "model/config.json").read_text()), manifest["input"]["remarks"]
