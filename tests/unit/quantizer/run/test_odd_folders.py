"""Folders as people have them: incomplete downloads, clones without git-lfs, other encodings, URIs from elsewhere."""

import codecs
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, run_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantization_api.workflow import DataConfig, LoadDatasetConfig
from quantizer.calibration.tokens import Preprocess, encode_apart
from quantizer.run.inputs import Model, open_model, read_text
from quantizer.store.location import Location

pytestmark = pytest.mark.unit

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
SHARD = "model-00001-of-00002.safetensors"


def opened(folder: Path | str) -> Model:
    return open_model(str(folder), StorageAccess())


def refused(folder: Path | str, category: Category = Category.MODEL_NOT_FOUND) -> str:
    """Message and cure with which a model is refused."""
    with pytest.raises(QuantizationError) as caught:
        opened(folder)
    assert caught.value.category is category, caught.value
    return f"{caught.value.message} {caught.value.hint}"


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A model as a hub's client keeps it: links into a folder of blobs."""
    repository = tmp_path / "hub/models--someone--model"
    snapshot = repository / "snapshots/0123abcd"
    save_tiny_reader(snapshot)
    (snapshot / "README.md").write_text("# A model\n")
    (repository / "blobs").mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blob(snapshot, path.name))
        path.symlink_to(f"../../blobs/{blob(snapshot, path.name).name}")
    return snapshot


def blob(snapshot: Path, name: str) -> Path:
    return snapshot.parent.parent / "blobs" / name.replace(".", "-")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_of_a_hub_s_cache_to_a_file_that_is_gone_is_an_incomplete_download(
    cached: Path, name: str
) -> None:
    blob(cached, name).unlink()
    said = refused(cached)
    assert f"{name} is a link to ../../blobs/{blob(cached, name).name}, which does not exist" in said
    assert "The download is not complete" in said
    assert "cp -rL" in said


def test_a_snapshot_that_was_copied_without_its_blobs_is_an_incomplete_copy(
    cached: Path, tmp_path: Path
) -> None:
    shutil.copytree(cached, tmp_path / "copy", symlinks=True)
    assert "cp -rL" in refused(tmp_path / "copy")


def test_a_shard_that_is_a_link_to_nothing_is_named(cached: Path) -> None:
    index = {"weight_map": {"model.norm.weight": SHARD}}
    (cached / "model.safetensors").unlink()
    (cached / "model.safetensors.index.json").write_text(json.dumps(index))
    (cached / SHARD).symlink_to("../../blobs/gone")
    assert f"{SHARD} is a link to ../../blobs/gone, which does not exist" in refused(cached)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "pytorch_model.bin", "picture.png"])
def test_a_link_to_nothing_that_nobody_needs_is_no_fault(cached: Path, name: str) -> None:
    (cached / name).unlink(missing_ok=True)
    (cached / name).symlink_to("../../blobs/gone")
    model = opened(cached)
    assert model.broken == ((name,) if name in ("README.md", "LICENSE") else ())


def test_a_run_with_a_dead_readme_ends_well_and_says_so(cached: Path, tmp_path: Path) -> None:
    blob(cached, "README.md").unlink()
    request = Request(
        f"file://{tmp_path / 'out'}", f"file://{cached}", metrics=[], pass_options={"group_size": 16}
    )
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    assert "README.md was not copied: a link to a file that does not exist." in ended.log


def test_the_folder_above_the_snapshots_says_which_to_name(cached: Path) -> None:
    assert f"Write the folder that has it: file://{cached}." in refused(cached.parent.parent)


def test_a_folder_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("v3")
    assert "latest is a link to v3, which does not exist" in refused(tmp_path / "latest")


def test_an_adapter_alone_says_what_to_do_with_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "Merge the adapter into its base model" in refused(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_where_a_folder_is_wanted_says_so(tmp_path: Path, name: str) -> None:
    save_tiny_reader(tmp_path)
    said = refused(tmp_path / name)
    assert f"{name} is a file; a model is a folder with config.json and safetensors" in said
    assert f"Write the folder that the file lies in: file://{tmp_path}." in said


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "generation_config.json",
        "tokenizer.model",
        SHARD,
    ],
)
def test_a_pointer_of_git_lfs_is_not_the_file(tmp_path: Path, name: str) -> None:
    save_tiny_reader(tmp_path)
    if name == SHARD:
        index = {"weight_map": {"model.norm.weight": SHARD}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text(POINTER)
    said = refused(tmp_path)
    assert f"{name} is a pointer of git-lfs, not the file itself" in said
    assert "git lfs pull" in said


def config_of(uri: str) -> DataConfig:
    return DataConfig(name="calibration", load_dataset_config=LoadDatasetConfig(data_name=uri, split="train"))


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text(POINTER), lambda path: path.symlink_to("gone")]
)
def test_a_text_that_is_not_there_itself_says_so(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "train.txt")
    for uri in (f"file://{tmp_path}", f"file://{tmp_path}/train.txt"):
        with pytest.raises(QuantizationError, match=r"is a pointer of git-lfs|is a link to gone") as caught:
            read_text(config_of(uri), StorageAccess())
        assert caught.value.category is Category.DATA_NOT_FOUND
        assert "download" in caught.value.hint


def test_a_link_to_nothing_beside_a_text_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("Once upon a time.")
    (tmp_path / "README.md").symlink_to("gone")
    assert read_text(config_of(f"file://{tmp_path}"), StorageAccess()).rows == ["Once upon a time."]


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "BOM": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16, no BOM": lambda text: text.encode("utf-16-le"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_configs_in_another_encoding_are_read_and_written_as_readers_want_them(
    tmp_path: Path, encoding: str
) -> None:
    save_tiny_reader(tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        path = tmp_path / "model" / name
        path.write_bytes(ENCODINGS[encoding](path.read_text()))
    rotated = {"type": "QuaRot", "input_model_dtype": "fp32"}
    request = Request(
        f"file://{tmp_path / 'out'}", f"file://{tmp_path / 'model'}", metrics=[], layer_pass=rotated
    )
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    AutoModelForCausalLM.from_pretrained(tmp_path / "out/model")
    stored = AutoTokenizer.from_pretrained(tmp_path / "out/model")
    texts = {"a": (["one two three"], Preprocess(max_seq_len=4))}
    encoded = encode_apart(opened(tmp_path / "model").source, tmp_path / "again", texts)
    assert list(encoded["a"].sequences[0]) == stored("one two three")["input_ids"][:4]


@pytest.mark.parametrize("name", ["My Model", "ein Modell für 100%", "模型"])
def test_a_file_uri_is_decoded_as_other_software_writes_it(tmp_path: Path, name: str) -> None:
    save_tiny_reader(tmp_path / name)
    assert opened((tmp_path / name).as_uri()).layout.layers == 2
    assert opened(tmp_path / name).layout.layers == 2
    (tmp_path / name / "train.txt").write_text("Once upon a time.")
    assert read_text(config_of((tmp_path / name / "train.txt").as_uri()), StorageAccess()).rows


def test_what_a_uri_encodes_must_be_a_path_that_can_be_printed() -> None:
    for uri in ("file:///a%00b", "file:///a%0Ab", "file:///a%FF"):
        with pytest.raises(QuantizationError, match="encodes a path that is no printable text") as caught:
            Location.of_input(uri)
        assert caught.value.category is Category.INVALID_WORKFLOW


def test_an_input_that_encodes_the_output_overlaps_it(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "a b")
    request = Request(f"file://{tmp_path}/a b/out", f"file://{tmp_path}/a%20b", metrics=[])
    ended = run_here(request, tmp_path / "scratch")
    assert ended.result.failure is not None
    assert "overlap" in ended.result.failure.message
    assert not os.path.lexists(tmp_path / "a b/out")
