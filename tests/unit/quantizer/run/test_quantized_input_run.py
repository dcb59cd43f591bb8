"""A model in FP8 is quantized as the model that it stands for; everybody is told that it was quantized before."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tests.support.choice import mostly_nightly
from tests.support.engine import save_tiny_reader
from tests.support.quantized_inputs import FP8_KINDS, store_in_fp8
from tests.support.quantizer_requests import Ended, Request, run_here

from quantization_api.failures import Category
from quantization_api.pod import StorageAccess
from quantizer.cli import parser
from quantizer.run.inspection import inspect

pytestmark = pytest.mark.unit

ROTATED = {"type": "QuaRot", "input_model_dtype": "fp32"}
STATIC = "fp8, whole tensors"
ASKED = {"group_size": 16}


def run(folder: Path, output: str, **request: Any) -> Ended:
    """A run of the model in a folder; the artifact is in `output` beside it."""
    asked = {"pass_options": ASKED, "metrics": [], **request}
    uri = f"file://{folder.parent / output}"
    return run_here(Request(uri, f"file://{folder}", **asked), folder.parent / f"scratch-{output}")


def saved(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """A model in FP8, and the bfloat16 model that it stands for."""
    save_tiny_reader(tmp_path / "fp8")
    shutil.copytree(tmp_path / "fp8", tmp_path / "twin")
    meant = store_in_fp8(tmp_path / "fp8", kind)
    save_file(meant, tmp_path / "twin/model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "fp8/config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "twin/config.json").write_text(json.dumps(config))
    return tmp_path / "fp8", tmp_path / "twin"


def into_shards(folder: Path) -> None:
    """Puts every scale into another file than its weight."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {True: "model-00001-of-00002.safetensors", False: "model-00002-of-00002.safetensors"}
    index = {name: names["scale" in name] for name in tensors}
    for file in names.values():
        part = {name: tensor for name, tensor in tensors.items() if index[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def checkpoint(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}


def manifest(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return made


@pytest.mark.parametrize("kind", mostly_nightly(FP8_KINDS, ["fp8, blocks"]))
def test_the_artifact_is_that_of_the_model_it_stands_for(kind: str, tmp_path: Path) -> None:
    quantized, twin = saved(tmp_path, kind)
    if kind == "fp8, blocks":
        into_shards(quantized)
    for folder in (quantized, twin):
        ended = run(folder, f"out-{folder.name}")
        assert ended.code == 0, ended.log
    assert checkpoint(tmp_path / "out-fp8") == checkpoint(tmp_path / "out-twin")
    ours, theirs = manifest(tmp_path / "out-fp8"), manifest(tmp_path / "out-twin")
    assert ours["input"]["revision"] != theirs["input"]["revision"]
    assert ours["recipe"] != theirs["recipe"]
    assert ours["input"]["dtype"] == theirs["input"]["dtype"] == "bfloat16"
    stored = sum(
        tensor.nbytes for file in quantized.glob("*.safetensors") for tensor in load_file(file).values()
    )
    assert ours["input"]["size_bytes"] == stored


def test_a_rotation_writes_no_trace_of_fp8(tmp_path: Path) -> None:
    quantized, _ = saved(tmp_path, "fp8, blocks")
    ended = run(quantized, "out", layer_pass=ROTATED)
    assert ended.code == 0, ended.log
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert "quantization_config" not in config
    tensors = load_file(tmp_path / "out/model/model.safetensors")
    assert not [name for name in tensors if "scale" in name]


def test_log_manifest_and_card_say_that_it_was_quantized(tmp_path: Path) -> None:
    quantized, _ = saved(tmp_path, STATIC)
    ended = run(quantized, "out")
    said = manifest(tmp_path / "out")["input"]["remarks"]
    assert said[0].startswith("The input model is quantized (fp8): its weights were read as bfloat16")
    assert "activation_scale" in said[1]
    assert all(sentence in ended.log for sentence in said)
    assert said[0].split(":")[0] in (tmp_path / "out/README.md").read_text()


def test_inspect_says_how_it_is_stored_and_what_it_is_read_as(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized, twin = saved(tmp_path, "compressed-tensors, blocks")
    described = inspect(f"file://{quantized}", StorageAccess())
    assert described["quantization"] == {
        "method": "compressed-tensors in float-quantized",
        "readAs": "bfloat16",
    }
    assert set(described["dtypes"]) == {"float8_e4m3fn", "float32", "bfloat16"}
    assert sum(described["dtypes"].values()) == described["sizeBytes"]
    assert parser.main(["inspect", str(quantized)]) == 0
    assert "compressed-tensors in float-quantized; read as bfloat16" in capsys.readouterr().out
    assert inspect(f"file://{twin}", StorageAccess())["quantization"] is None


SPEED = {"name": "latency", "type": "latency", "prompt_tokens": 8, "new_tokens": 4}


@pytest.mark.parametrize(
    ("request_of", "category", "sentence"),
    [
        (
            {
                "layer_pass": {
                    "type": "AutoAWQQuantizer",
                    "implementation": "autoawq",
                    "data_config": "calibration",
                }
            },
            Category.MODEL_UNSUPPORTED,
            "implementation autoawq does not read a model that is quantized already (fp8)",
        ),
        (
            {"metrics": [SPEED], "layer_pass": ROTATED},
            Category.INVALID_WORKFLOW,
            "of the input model too, and one that is quantized already (fp8) is not served",
        ),
    ],
    ids=["a stock package", "speed"],
)
def test_what_would_load_the_input_itself_is_refused(
    request_of: dict[str, Any], category: Category, sentence: str, tmp_path: Path
) -> None:
    quantized, _ = saved(tmp_path, "fp8, blocks")
    ended = run(quantized, "out", **request_of)
    assert ended.result.failure is not None
    assert (ended.result.failure.category, sentence in ended.result.failure.message) == (category, True), (
        ended.log
    )
