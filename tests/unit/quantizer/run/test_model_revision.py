"""The revision of a model: over the weights that are read, wherever they lie, and over no others."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.support.engine import STORIES, files

from quantization_api.pod import StorageAccess
from quantizer.run.inputs import open_model

pytestmark = pytest.mark.unit

INDEX = "model.safetensors.index.json"
WEIGHTS = "weights/all.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The example model, its weights in a subfolder that the index names."""
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    for name, data in files(STORIES).items():
        (folder / (WEIGHTS if name == "model.safetensors" else name)).write_bytes(data)
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / WEIGHTS), WEIGHTS)}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def revision(folder: Path) -> str:
    return open_model(str(folder), StorageAccess()).revision


def test_other_weights_in_a_subfolder_are_another_revision(model: Path) -> None:
    before = revision(model)
    tensors = load_file(model / WEIGHTS)
    tensors["model.norm.weight"] += 1
    save_file(tensors, model / WEIGHTS, {"format": "pt"})
    assert revision(model) != before


def test_a_safetensors_file_that_no_index_names_is_not_read(model: Path) -> None:
    before = revision(model)
    with (model / "extra.safetensors").open("wb") as file:
        file.truncate(10**13)  # reading it would take an hour
    assert revision(model) == before
