"""Which files of a folder a store reads: never what lies outside, never what is no file."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantization_api.workflow import DataConfig, LoadDatasetConfig
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.weight_files import INDEX_NAME
from quantizer.run.inputs import read_text
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import ARTIFACT, DATA, MODEL, OUTPUT, Place
from quantizer.store.keys import is_inside
from quantizer.store.source import StoreSource

pytestmark = pytest.mark.unit

SECONDS = 1.0
"""In which a file that is not read is refused."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("a key of somebody else")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def link_out(path: Path) -> None:
    path.symlink_to("../secret")


def link_through_a_link(path: Path) -> None:
    (path.parent / "sub").symlink_to("..")
    path.symlink_to("sub/secret")


def absolute_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "secret")


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_in_a_circle(path: Path) -> None:
    path.symlink_to(path.name)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("making a device needs root")


MAKERS = [
    link_out,
    link_through_a_link,
    absolute_link,
    link_to_a_device,
    link_in_a_circle,
    fifo,
    link_to_a_fifo,
    unix_socket,
    device,
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_model_with_such_a_file_is_refused_at_once(
    folder: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # the path of a socket is short
    make(Path("README.md") if make is unix_socket else folder / "README.md")
    began = time.monotonic()
    with pytest.raises(QuantizationError, match=r"README\.md|pipe") as caught:
        StoreSource(DirectoryStore(folder, MODEL), MODEL)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("make", [link_out, fifo, device])
@pytest.mark.parametrize("place", [MODEL, OUTPUT, ARTIFACT])
def test_nor_is_it_read_by_its_name(folder: Path, make: Callable[[Path], None], place: Place) -> None:
    make(folder / "README.md")
    store = DirectoryStore(folder, place)
    for call in (lambda: store.head("README.md"), lambda: store.read("README.md", 0, 1)):
        began = time.monotonic()
        with pytest.raises(QuantizationError) as caught:
            call()
        assert caught.value.category is place.refused
        assert time.monotonic() - began < SECONDS


def test_a_file_that_becomes_a_fifo_after_it_was_looked_at_is_never_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantizer.store import directory

    open_regular = directory.open_regular

    def swapped(path: Path) -> int:
        path.unlink()
        os.mkfifo(path)
        return open_regular(path)

    monkeypatch.setattr(directory, "open_regular", swapped)
    result: list[BaseException] = []

    def read() -> None:
        try:
            DirectoryStore(folder, MODEL).read("config.json", 0, 1)
        except QuantizationError as error:
            result.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert len(result) == 1


def hub_cache(root: Path) -> Path:
    repository = root / "hub" / "models--someone--model"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "c0ffee").write_text("{}")
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/c0ffee")
    return snapshot


def test_the_cache_of_a_hub_s_client_is_read(tmp_path: Path) -> None:
    store = DirectoryStore(hub_cache(tmp_path), MODEL)
    assert list(store.list()) == ["config.json"]
    assert bytes(store.read("config.json", 0, 2)) == b"{}"
    (tmp_path / "latest").symlink_to("hub/models--someone--model/snapshots/0123abcd")
    assert list(DirectoryStore(tmp_path / "latest", MODEL).list()) == ["config.json"]


def test_but_no_other_file_beside_it(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (tmp_path / "hub" / "token").write_text("a secret")
    (snapshot / "README.md").symlink_to("../../../token")
    with pytest.raises(QuantizationError, match="outside the folder"):
        DirectoryStore(snapshot, MODEL).list()
    (snapshot / "README.md").unlink()
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "moved")
    (tmp_path / "moved" / "key").write_text("a secret")
    blobs.symlink_to(tmp_path / "moved")
    with pytest.raises(QuantizationError, match="outside the folder"):
        DirectoryStore(snapshot, MODEL).list()


def config_map(root: Path) -> Path:
    """As the kubelet mounts one: what is behind ..data is swapped at once."""
    mount = root / "mount"
    (mount / "..2026_11_30").mkdir(parents=True)
    (mount / "..2026_11_30" / "train.txt").write_text("Once upon a time.\n")
    (mount / "..data").symlink_to("..2026_11_30")
    (mount / "train.txt").symlink_to("..data/train.txt")
    return mount


def config_of(uri: Path) -> DataConfig:
    return DataConfig(
        name="calibration", load_dataset_config=LoadDatasetConfig(data_name=f"file://{uri}", split="train")
    )


@pytest.mark.parametrize("below", ["", "train.txt"])
def test_a_text_in_a_config_map_is_read(tmp_path: Path, below: str) -> None:
    text = read_text(config_of(config_map(tmp_path) / below), StorageAccess())
    assert "Once upon a time." in text.rows[0]


def test_a_text_that_is_a_link_on_its_volume_is_read(tmp_path: Path) -> None:
    """A PVC with versions of a data set, and a link to the newest."""
    (tmp_path / "v3").mkdir()
    (tmp_path / "v3" / "train.txt").write_text("Once upon a time.\n")
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "train.txt").symlink_to("../v3/train.txt")
    assert read_text(config_of(tmp_path / "current" / "train.txt"), StorageAccess()).rows


def test_a_text_on_another_volume_or_none_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").symlink_to("/proc/self/environ")
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("train.txt", "pipe.txt"):
        with pytest.raises(QuantizationError) as caught:
            read_text(config_of(tmp_path / name), StorageAccess())
        assert caught.value.category is Category.DATA_NOT_FOUND
        assert name in caught.value.message


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").symlink_to("../elsewhere")
    store = DirectoryStore(tmp_path / "out", OUTPUT)
    calls: list[Callable[[], object]] = [
        lambda: store.put_bytes("model/precious", b"y"),
        lambda: store.put_file("model/sub/file", tmp_path / "elsewhere" / "precious"),
        lambda: store.delete(["model/precious"]),
    ]
    for call in calls:
        with pytest.raises(QuantizationError, match="leads out of the folder"):
            call()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["precious"]
    assert (tmp_path / "elsewhere" / "precious").read_text() == "x"


def test_an_output_that_is_a_link_itself_is_used(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "out").symlink_to("volume")
    store = DirectoryStore(tmp_path / "out", OUTPUT)
    store.put_bytes("model/config.json", b"{}")
    assert list(store.list()) == ["model/config.json"]


OUTSIDE = ["../secret", "model/../../secret", "/etc/passwd", "", ".", "a//b", "a/./b", "a\0b", "a/.."]


@pytest.mark.parametrize("key", OUTSIDE)
def test_a_key_never_leads_out(folder: Path, key: str) -> None:
    assert not is_inside(key)
    store = DirectoryStore(folder, OUTPUT)
    calls: list[Callable[[], object]] = [
        lambda: store.head(key),
        lambda: store.read(key, 0, 1),
        lambda: store.put_bytes(key, b"x"),
        lambda: store.put_file(key, folder / "config.json"),
        lambda: store.delete([key]),
    ]
    for call in calls:
        with pytest.raises(QuantizationError, match="not a path below the root"):
            call()
    assert (folder.parent / "secret").read_text() == "a key of somebody else"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "a/../../x.safetensors"])
def test_an_index_names_files_of_the_model_alone(folder: Path, name: str) -> None:
    (folder / INDEX_NAME).write_text(f'{{"weight_map": {{"model.norm.weight": "{name}"}}}}')
    with pytest.raises(QuantizationError, match="which the model does not have") as caught:
        SafetensorsReader(StoreSource(DirectoryStore(folder, MODEL), MODEL))
    assert caught.value.category is Category.MODEL_NOT_FOUND


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "README.md").symlink_to("blobs/notthere")
    with pytest.raises(QuantizationError, match=r"README\.md is a link to .*notthere, which does not exist"):
        DirectoryStore(folder, OUTPUT).list()
    store = DirectoryStore(folder, MODEL)
    assert store.list()["README.md"].broken
    for call in (lambda: store.head("README.md"), lambda: store.read("README.md", 0, 0)):
        with pytest.raises(
            QuantizationError, match=r"README\.md is a link to .*notthere, which does not exist"
        ):
            call()


def test_text_place_is_the_one_with_links_across_its_volume(folder: Path) -> None:
    (folder / "train.txt").symlink_to("../secret")
    assert DirectoryStore(folder, DATA).head("train.txt") is not None
