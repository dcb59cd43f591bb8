"""Which files hold a model's weights, where a folder has more than one candidate."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import save_tiny

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource

pytestmark = pytest.mark.unit

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A model in several files."""
    save_tiny(tmp_path / "model").save_pretrained(tmp_path / "model", max_shard_size="100KB")
    (tmp_path / "model/model.safetensors").unlink(missing_ok=True)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
    return tmp_path / "model"


def read(folder: Path) -> SafetensorsReader:
    return SafetensorsReader(DirectorySource(folder))


def whole_beside_shards(folder: Path) -> None:
    save_tiny(folder.parent / "other", seed=1)
    shutil.copy(folder.parent / "other/model.safetensors", folder)


def whole_beside_shards_without_an_index(folder: Path) -> None:
    whole_beside_shards(folder)
    (folder / INDEX).unlink()


def shards_alone(folder: Path) -> None:
    (folder / INDEX).unlink()


def adapter_alone(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "sentence", "hint"),
    [
        (
            whole_beside_shards,
            f"two sets of weights: model.safetensors, and model-0.*, which {INDEX} names",
            "Remove",
        ),
        (whole_beside_shards_without_an_index, f"two sets of .* which no {INDEX} names", "Remove the set"),
        (shards_alone, "it has model-00001-of-", f"Upload {INDEX} too"),
        (adapter_alone, "it has adapter_model.safetensors", "Merge the adapter into its base model"),
    ],
)
def test_a_folder_that_leaves_open_what_the_weights_are_is_refused(
    spoil: Callable[[Path], None], sentence: str, hint: str, sharded: Path
) -> None:
    spoil(sharded)
    with pytest.raises(QuantizationError, match=sentence) as caught:
        read(sharded)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert hint in caught.value.hint


def test_an_index_that_names_the_whole_file_is_no_second_set(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    names = list(read(tmp_path).tensors)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    (tmp_path / "consolidated.safetensors").write_bytes(b"in another format")
    assert read(tmp_path).files == ("model.safetensors",)


def move(folder: Path, name: str, *, keep: bool, change: float = 0.0) -> None:
    """Puts a tensor into a file where the index does not look for it."""
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    there = folder / index[name]
    other = folder / next(file for file in sorted(index.values()) if file != index[name])
    source, target = load_file(there), load_file(other)
    target[name] = source[name] + change
    if not keep:
        del source[name]
        save_file(source, there)
    save_file(target, other)


def test_a_tensor_that_lies_in_another_file_than_the_index_says_is_found(sharded: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    before = read(sharded).tensor(name)
    move(sharded, name, keep=False)
    assert torch.equal(read(sharded).tensor(name), before)


def test_a_tensor_that_two_files_hold_is_one_if_its_values_are_the_same(sharded: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    before = read(sharded).tensor(name)
    move(sharded, name, keep=True)
    assert torch.equal(read(sharded).tensor(name), before)


def test_a_tensor_that_two_files_hold_with_other_values_is_refused(sharded: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    move(sharded, name, keep=True, change=1.0)
    with pytest.raises(
        QuantizationError, match=f"holds {name}, of which model-.* has other values"
    ) as caught:
        read(sharded)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert caught.value.hint.startswith("Remove the files that do not belong")
