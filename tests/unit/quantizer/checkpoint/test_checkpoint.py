"""Checkpoints: read by ranges, damage named, written in bounded shards."""

import json
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import copier, save_tiny
from torch import Tensor
from transformers import LlamaForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.side_files import side_files
from quantizer.checkpoint.source import Buffer, DirectorySource
from quantizer.checkpoint.weight_files import INDEX_NAME
from quantizer.checkpoint.writer import PlannedTensor, ShardWriter

pytestmark = pytest.mark.unit

PATIENCE = 20.0
"""Seconds after which what should have happened beside this thread has not."""


class CountingSource(DirectorySource):
    """A directory that counts what is read of it and hands out read-only bytes, as a network would."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[str, int, int]] = []

    def read(self, name: str, start: int, length: int) -> Buffer:
        self.ranges.append((name, start, length))
        return bytes(super().read(name, start, length))


def test_a_checkpoint_of_one_file_reads_back_in_every_dtype(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).half(),
        "c": torch.randn(2, 2, 2).bfloat16(),
        "d": torch.arange(7, dtype=torch.int32),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    reader = SafetensorsReader(DirectorySource(tmp_path))
    assert set(reader.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(reader.tensor(name), tensor)
    assert torch.equal(reader.rows("a", 1, 3), tensors["a"][1:3])
    assert torch.equal(torch.cat([rows for _, rows in reader.slices("a", 2)]), tensors["a"])


def test_a_tensor_is_read_by_its_own_range_only(tmp_path: Path) -> None:
    save_file({"large": torch.randn(1000, 100), "small": torch.randn(10)}, tmp_path / "model.safetensors")
    source = CountingSource(tmp_path)
    reader = SafetensorsReader(source)
    source.ranges.clear()
    reader.tensor("small").add_(1)  # what is handed out may be written to
    assert [length for _, _, length in source.ranges] == [40]


class WatchedSource(DirectorySource):
    """A directory that says when a tensor has been asked for, and whose data can be gone by then."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.starts: dict[int, str] = {}
        self.asked: dict[str, threading.Event] = defaultdict(threading.Event)
        self.lost: set[str] = set()

    def watch(self, reader: SafetensorsReader) -> None:
        self.starts = {info.start: name for name, info in reader.tensors.items()}

    def read(self, name: str, start: int, length: int) -> Buffer:
        tensor = self.starts.get(start)
        try:
            if tensor in self.lost:
                raise QuantizationError(Category.STORAGE_UNAVAILABLE, f"{tensor} is out of reach")
            return super().read(name, start, length)
        finally:
            if tensor is not None:
                self.asked[tensor].set()


def watched(folder: Path, groups: list[list[str]]) -> tuple[WatchedSource, SafetensorsReader]:
    """A checkpoint whose tensors hold the number of their group."""
    tensors = {name: torch.full((4,), float(number)) for number, names in enumerate(groups) for name in names}
    save_file(tensors, folder / "model.safetensors")
    source = WatchedSource(folder)
    reader = SafetensorsReader(source)
    source.watch(reader)
    return source, reader


GROUPS = [[f"layer.{index}.{part}" for part in "ab"] for index in range(5)]


def test_layers_come_in_order_with_the_next_one_read_ahead(tmp_path: Path) -> None:
    source, reader = watched(tmp_path, GROUPS)
    for index, group in enumerate(reader.prefetched(GROUPS)):
        assert list(group) == GROUPS[index]
        assert all(bool((tensor == index).all()) for tensor in group.values())
        for name in GROUPS[index + 1] if index + 1 < len(GROUPS) else ():
            assert source.asked[name].wait(PATIENCE), f"{name} is not read while layer {index} is in use"
    assert list(reader.prefetched([])) == []


def test_no_more_than_the_next_layer_is_read_ahead(tmp_path: Path) -> None:
    source, reader = watched(tmp_path, GROUPS)
    layers = reader.prefetched(GROUPS)
    next(layers)
    assert source.asked[GROUPS[1][-1]].wait(PATIENCE)
    next(layers)  # which the thread has finished: had it gone on, more than the third would be under way
    assert source.asked[GROUPS[2][-1]].wait(PATIENCE)
    layers.close()  # waits for the thread
    assert not source.asked[GROUPS[3][0]].is_set()


def test_an_error_of_the_read_ahead_comes_out_where_the_layer_is_used(tmp_path: Path) -> None:
    source, reader = watched(tmp_path, GROUPS)
    source.lost = {GROUPS[1][0]}
    layers = reader.prefetched(GROUPS)
    assert list(next(layers)) == GROUPS[0]
    assert source.asked[GROUPS[1][0]].wait(
        PATIENCE
    )  # it has failed, and the first layer is in use all the same
    with pytest.raises(QuantizationError, match="is out of reach"):
        next(layers)


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])


def header_too_long(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10**12) + data[8:])


def header_no_json(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"oops")


def wrong_size(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data.replace(b'"shape":[4]', b'"shape":[5]'))


def unknown_dtype(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data.replace(b'"dtype":"F32"', b'"dtype":"F3X"'))


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))


def index_without_map(folder: Path) -> None:
    (folder / INDEX_NAME).write_text("{}")


def index_names_absent_tensor(folder: Path) -> None:
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))


@pytest.mark.parametrize(
    ("damage", "category", "sentence"),
    [
        (truncate, Category.MODEL_UNSUPPORTED, "model.safetensors is truncated: its header describes"),
        (header_too_long, Category.MODEL_UNSUPPORTED, "claims a header of 1000000000000 bytes"),
        (header_no_json, Category.MODEL_UNSUPPORTED, "the JSON of model.safetensors cannot be used"),
        (wrong_size, Category.MODEL_UNSUPPORTED, r"gives a \(5,\) F32 a size of 16 bytes"),
        (unknown_dtype, Category.MODEL_UNSUPPORTED, "unsupported dtype F3X"),
        (only_bin, Category.MODEL_UNSUPPORTED, "it has pytorch_model.bin"),
        (nothing, Category.MODEL_NOT_FOUND, "no model.safetensors and no .*; found: no files"),
        (
            missing_shard,
            Category.MODEL_NOT_FOUND,
            "names model-00002-of-00002.safetensors, which the model does",
        ),
        (index_without_map, Category.MODEL_UNSUPPORTED, "has no weight_map"),
        (index_names_absent_tensor, Category.MODEL_UNSUPPORTED, "lacks x, which"),
    ],
)
def test_damage_is_named_when_the_checkpoint_is_opened(
    damage: Callable[[Path], None], category: Category, sentence: str, tmp_path: Path
) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    damage(tmp_path)
    with pytest.raises(QuantizationError, match=sentence) as caught:
        SafetensorsReader(DirectorySource(tmp_path))
    assert caught.value.category is category


def test_a_directory_that_is_not_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="is not a directory") as caught:
        SafetensorsReader(DirectorySource(tmp_path / "absent"))
    assert caught.value.category is Category.MODEL_NOT_FOUND


def _write_all(writer: ShardWriter, names: list[str], size: int) -> None:
    for name in names:
        writer.write(name, torch.ones(size))


def written(folder: Path, groups: list[dict[str, Tensor]], limit: int) -> ShardWriter:
    """Writes groups of tensors, in reverse order: the plan, not the order of arrival, decides."""
    plan = [[PlannedTensor(name, t.dtype, tuple(t.shape)) for name, t in group.items()] for group in groups]
    scratch = folder / "scratch"
    scratch.mkdir()
    with ShardWriter(plan, scratch, copier(folder / "out"), limit) as writer:
        for group in reversed(groups):
            for name, tensor in group.items():
                writer.write(name, tensor)
    assert list(scratch.iterdir()) == []
    return writer


def test_shards_are_bounded_keep_groups_together_and_read_back(tmp_path: Path) -> None:
    groups = [{f"{g}.{part}": torch.randn(10, 10) for part in "abc"} for g in range(5)]
    groups.append({"odd": torch.arange(3, dtype=torch.uint8), "half": torch.randn(3).half()})
    writer = written(tmp_path, groups, limit=2500)
    assert writer.files == [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / "out" / INDEX_NAME).read_text())
    for group in groups:
        assert len({index["weight_map"][name] for name in group}) == 1
    everything = {
        name: tensor for file in writer.files for name, tensor in load_file(tmp_path / "out" / file).items()
    }
    for group in groups:
        for name, tensor in group.items():
            assert torch.equal(everything[name], tensor)
    assert index["metadata"]["total_size"] == sum(t.nbytes for g in groups for t in g.values())
    assert writer.bytes == sum((tmp_path / "out" / file).stat().st_size for file in writer.files)


def test_what_fits_into_one_file_needs_no_index(tmp_path: Path) -> None:
    writer = written(tmp_path, [{"a": torch.ones(3)}], limit=1000)
    assert writer.files == ["model.safetensors"]
    assert not (tmp_path / "out" / INDEX_NAME).exists()


def test_a_tensor_that_never_came_fails_the_run(tmp_path: Path) -> None:
    plan = [[PlannedTensor("a", torch.float32, (2,)), PlannedTensor("b", torch.float32, (2,))]]
    with (
        pytest.raises(ValueError, match="never written: b"),
        ShardWriter(plan, tmp_path, copier(tmp_path / "out")) as writer,
    ):
        writer.write("a", torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tensor_of_another_shape_or_a_second_time_is_refused(tmp_path: Path) -> None:
    plan = [[PlannedTensor("a", torch.float32, (2,)), PlannedTensor("b", torch.float32, (2,))]]
    with (
        pytest.raises(ValueError, match="planned was"),
        ShardWriter(plan, tmp_path, copier(tmp_path / "out")) as writer,
    ):
        writer.write("a", torch.ones(3))
    with (
        pytest.raises(ValueError, match="a was written twice"),
        ShardWriter(plan, tmp_path, copier(tmp_path / "out")) as writer,
    ):
        _write_all(writer, ["a", "a"], 2)


def test_a_shard_is_stored_while_the_next_one_is_written(tmp_path: Path) -> None:
    plan = [[PlannedTensor(name, torch.float32, (100,))] for name in "abc"]
    stored: list[str] = []
    begun, written_on = threading.Event(), threading.Event()

    def sink(name: str, _path: Path) -> None:
        begun.set()
        assert written_on.wait(PATIENCE), f"{name} holds up what comes after it"
        stored.append(name)

    with ShardWriter(plan, tmp_path, sink, max_shard_bytes=400) as writer:
        writer.write("a", torch.ones(100))
        assert begun.wait(PATIENCE)
        writer.write("b", torch.ones(100))
        assert stored == []  # the first one is still on its way
        written_on.set()
        writer.write("c", torch.ones(100))
    assert stored == [*writer.files, INDEX_NAME]


def test_what_the_sink_raises_ends_the_run_and_leaves_nothing_on_scratch(tmp_path: Path) -> None:
    def refuse(name: str, _path: Path) -> None:
        raise QuantizationError(Category.ACCESS_DENIED, f"{name} may not be written")

    plan = [[PlannedTensor(str(number), torch.float32, (100,))] for number in range(8)]
    with (
        pytest.raises(QuantizationError, match="may not be written"),
        ShardWriter(plan, tmp_path, refuse, max_shard_bytes=400) as writer,
    ):
        _write_all(writer, [str(number) for number in range(8)], 100)
    assert list(tmp_path.iterdir()) == []


def test_a_full_scratch_volume_has_a_category_of_its_own(tmp_path: Path) -> None:
    plan = [[PlannedTensor("a", torch.float32, (1000,))]]
    (tmp_path / "model.safetensors").symlink_to(
        "/dev/full"
    )  # a device on which every write fails with ENOSPC
    with (
        pytest.raises(QuantizationError, match="scratch is full") as caught,
        ShardWriter(plan, tmp_path, copier(tmp_path / "out")) as writer,
    ):
        writer.write("a", torch.ones(1000))
    assert caught.value.category is Category.SCRATCH_FULL


def test_tokenizer_and_licence_are_copied_weights_configs_and_code_are_not(tmp_path: Path) -> None:
    names = [
        "LICENSE", "README.md", "tokenizer.json", "tokenizer.model", "generation_config.json", "chat_template.jinja",
        "additional_chat_templates/tools.jinja", "config.json", "quantize_config.json", "model.safetensors", INDEX_NAME,
        "modeling_llama.py", "pytorch_model.bin", "original/params.json", "adapter_config.json", "params.json",
        "adapter_model.safetensors", "hf_quant_config.json",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(side_files(DirectorySource(tmp_path))) == sorted(name for name in names[:7])


def test_transformers_loads_what_the_writer_wrote(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "in")
    reader = SafetensorsReader(DirectorySource(tmp_path / "in"))
    groups = [{name: reader.tensor(name)} for name in reader.tensors]
    written(tmp_path, groups, limit=20_000)
    (tmp_path / "out/config.json").write_bytes((tmp_path / "in/config.json").read_bytes())
    again = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
