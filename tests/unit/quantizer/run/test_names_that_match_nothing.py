"""A name in a list of a manifest that nothing in the model or the data has: refused with the nearest, before weights
are read."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Ended, Request, run_here

from quantization_api.failures import Category, ExitCode
from quantizer.store.source import StoreSource

pytestmark = pytest.mark.unit

GPTQ = {"type": "GptqQuantizer", "data_config": "calibration", "group_size": 16}
AWQ = {
    "type": "AutoAWQQuantizer",
    "data_config": "calibration",
    "q_group_size": 16,
    "input_model_dtype": "fp32",
}
PACKAGE = {**AWQ, "implementation": "autoawq"}

MODULES: dict[str, tuple[dict[str, Any], str]] = {
    "a linear": (
        {**AWQ, "modules_to_not_convert": ["q_proj", "dwon_proj"]},
        "mlp.up_proj, mlp.down_proj; did you mean down_proj?",
    ),
    "a linear of one layer": (
        {**AWQ, "modules_to_not_convert": ["layers.1.self_attn.v_porj"]},
        "did you mean layers.1.self_attn.v_proj?",
    ),
    "a layer that is not there": (
        {**AWQ, "modules_to_not_convert": ["layers.17"]},
        "modules_to_not_convert has layers.17, which is part of no module's name",
    ),
    "another letter case": ({**AWQ, "modules_to_not_convert": ["Q_proj"]}, "did you mean q_proj?"),
    "the head": ({**AWQ, "modules_to_not_convert": ["lmhead"]}, "did you mean lm_head?"),
    "nothing near": (
        {**AWQ, "modules_to_not_convert": ["xyz"]},
        "the linears of a layer are self_attn.q_proj, ",
    ),
    "a linear, for the package": (
        {**PACKAGE, "modules_to_not_convert": ["dwon_proj"]},
        "did you mean down_proj?",
    ),
    "a layer, for the package": (
        {**PACKAGE, "modules_to_not_convert": ["layers.1.mlp.down_proj"]},
        "did you mean mlp.down_proj?",
    ),
    "linears of a layer": (
        {**GPTQ, "inside_layer_modules": [["self_attn.q_proj", "self_attn.k_porj"]]},
        "did you mean self_attn.k_proj?",
    ),
    "the layers": (
        {**GPTQ, "layers_block_name": "model.layer"},
        "did you mean model.layers?",
    ),
    "modules beside the layers": (
        {**GPTQ, "outside_layer_modules": ["model.embed_token"]},
        "outside_layer_modules names model.embed_token, which a llama model does not have; "
        "did you mean model.embed_tokens?",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / "model"
    save_tiny_reader(folder)
    return folder


def asked(tmp_path: Path, model: Path, **what: Any) -> Request:
    """A request whose output is a new folder."""
    return Request(f"file://{tmp_path / 'out'}", str(model), **what)


def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Request) -> Ended:
    """The end of a run that reads no weight."""

    def read(_source: StoreSource, name: str) -> str:
        pytest.fail(f"{name} was read")

    monkeypatch.setattr(StoreSource, "content_id", read)
    return run_here(request, tmp_path / "scratch")


@pytest.mark.parametrize("case", MODULES)
def test_a_module_that_is_not_there_is_refused_with_the_nearest(
    case: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer_pass, sentence = MODULES[case]
    ended = checked(tmp_path, monkeypatch, asked(tmp_path, model, layer_pass=layer_pass))
    assert ended.result.failure is not None
    assert sentence in ended.result.failure.message
    assert ended.result.failure.category is Category.INVALID_WORKFLOW
    assert ended.code == ExitCode.INVALID_WORKFLOW
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "names", [["lm_head"], ["self_attn"], ["norm"], ["layers.1"], ["model.layers.0.mlp"]]
)
def test_a_name_of_anything_in_the_model_is_taken(names: list[str], model: Path, tmp_path: Path) -> None:
    """What is never quantized may be named too: other software's files do."""
    layer_pass = {**AWQ, "modules_to_not_convert": names}
    ended = run_here(asked(tmp_path, model, layer_pass=layer_pass, metrics=[]), tmp_path / "s")
    assert ended.code == ExitCode.DONE, ended.result.failure


def test_a_column_that_no_row_has_is_refused_with_the_nearest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "rows.jsonl"
    text.write_text(json.dumps({"id": 1, "text_": "a story"}) + "\n")
    ended = checked(tmp_path, monkeypatch, asked(tmp_path, model, calibration=str(text)))
    assert ended.result.failure is not None
    assert (
        "line 1 has no text in column 'text'; found: id, text_; did you mean text_?"
        in ended.result.failure.message
    )
    assert ended.result.failure.category is Category.DATA_NOT_FOUND


def test_a_split_that_the_folder_lacks_is_refused_with_the_nearest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(7):
        (folder / f"a{number}.txt").write_text("other")
    (folder / "validaton.txt").write_text("a story")
    ended = checked(tmp_path, monkeypatch, asked(tmp_path, model, calibration=str(folder)))
    assert ended.result.failure is not None
    assert "has no validation file" in ended.result.failure.message
    assert "did you mean validaton?" in ended.result.failure.message
    assert ended.result.failure.category is Category.DATA_NOT_FOUND
