"""What an input claims is compared with bounds before anything is read, allocated or made of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.decoder_families import FAMILIES, make_model
from tests.support.engine import save_tiny

from quantization_api.failures import CATALOGUE, Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantization_api.workflow import DataConfig
from quantizer.checkpoint.weight_files import INDEX_NAME, SINGLE_NAME
from quantizer.run.inputs import open_model, read_text

pytestmark = pytest.mark.unit

Spoil = Callable[[Path], object]
HUGE = 10**12


def config(**values: Any) -> Spoil:
    """config.json with other values."""

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return spoil


def sparse(name: str, size: int = HUGE) -> Spoil:
    """A file that says it has `size` bytes, with none on disk."""

    def spoil(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, size)

    return spoil


def written(name: str, text: str) -> Spoil:
    """A file of that text."""
    return lambda folder: (folder / name).write_text(text)


def index_of(count: int) -> str:
    """An index of as many tensors, all in the one file."""
    return json.dumps({"weight_map": {f"tensor.{number}": SINGLE_NAME for number in range(count)}})


DEEP = '{"a": ' * 500 + "1" + "}" * 500
SPOILED: dict[str, tuple[Spoil, str]] = {
    "layers that are not there": (config(num_hidden_layers=10**6), "says 1000000 layers, but the checkpoint has"),
    "labels of a classifier": (config(num_labels=10**9, num_hidden_layers=3), "lacks the tensor model.layers.2."),
    "a dtype that is none": (config(torch_dtype="float17"), "config.json says torch_dtype 'float17'; known: float16"),
    "a dtype that is no text": (config(dtype=["float16"]), r"config.json says dtype \['float16'\]; known: float16"),
    "heads that do not divide": (config(num_attention_heads=3), "config.json cannot be used|config.json makes it"),
    "a value that only a forward uses": (
        config(rope_parameters={"rope_type": "dynamic", "factor": "4", "rope_theta": 1e4}),
        "config.json cannot be used",
    ),
    "a config that is nested deeply": (written("config.json", DEEP), "config.json cannot be used: it is nested"),
    "a config of a terabyte": (sparse("config.json"), "config.json has 1,000,000,000,000 bytes"),
    "a file beside the weights of a terabyte": (sparse("README.md"), "README.md has 1,000,000,000,000 bytes"),
    "weights with a hole behind them": (sparse(SINGLE_NAME), "but its header describes only"),
    "an index of 100,000 tensors": (written(INDEX_NAME, index_of(10**5)), "lacks tensor.0, which"),
    "an index of a terabyte": (sparse(INDEX_NAME), f"{INDEX_NAME} has 1,000,000,000,000 bytes"),
    "an index that names no weights": (
        written(INDEX_NAME, '{"weight_map": {"a": "../outside\\n"}}'),
        "which is not a safetensors file",
    ),
    "a name of two lines": (written("a\nb.json", "{}"), r"whose name is not printable: 'a\\nb.json'"),
    "a generation config that is none": (
        written("generation_config.json", "[1]"),
        "generation_config.json cannot be used: it is a list",
    ),
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SPOILED)
def test_a_model_with_it_is_refused_at_once(name: str, tmp_path: Path) -> None:
    spoil, sentence = SPOILED[name]
    save_tiny(tmp_path)
    spoil(tmp_path)
    with pytest.raises(QuantizationError, match=sentence) as caught:
        open_model(f"file://{tmp_path}", StorageAccess())
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert caught.value.hint != CATALOGUE[Category.MODEL_UNSUPPORTED].cure


@pytest.mark.timeout(60)
def test_more_experts_than_tensors_are_refused_at_once(tmp_path: Path) -> None:
    model_type, fields = FAMILIES["mixtral"]
    make_model(model_type, fields).save_pretrained(tmp_path)
    config(num_local_experts=10**6)(tmp_path)
    with pytest.raises(
        QuantizationError, match="says num_local_experts 1000000, but the checkpoint has only"
    ):
        open_model(f"file://{tmp_path}", StorageAccess())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_model_is_taken(family: str, tmp_path: Path) -> None:
    model_type, fields = FAMILIES[family]
    make_model(model_type, fields).save_pretrained(tmp_path)
    assert open_model(f"file://{tmp_path}", StorageAccess()).layout.layers >= 2


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        ("a.txt", sparse("a.txt"), "has 1,000,000,000,000 bytes; at most"),
        (
            "a.jsonl",
            written("a.jsonl", '{"text": ' + "[" * 10**5),
            "line 1 of the data file a.jsonl cannot be used",
        ),
        ("a.json", written("a.json", '[{"text": "x", "more": ' + DEEP + "}]"), "nested"),
        ("a.json", written("a.json", "[" + "{}," * (5 * 10**6) + "{}]"), "too many lists, objects or values"),
        ("a.jsonl", written("a.jsonl", '{"text": "\\ud800"}'), "line 1 has half a surrogate pair"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("a.") else "",
)
def test_a_text_that_is_too_large_or_too_deep_is_refused_at_once(
    name: str, spoil: Spoil, sentence: str, tmp_path: Path
) -> None:
    spoil(tmp_path)
    place = {"load_dataset_config": {"data_name": f"file://{tmp_path / name}"}}
    data = DataConfig.model_validate({"name": "cal", "type": "HuggingfaceContainer", **place})
    with pytest.raises(QuantizationError, match=sentence) as caught:
        read_text(data, StorageAccess())
    assert caught.value.category is Category.DATA_NOT_FOUND
