"""A bit that changes between the storage and the quantizer is noticed wherever it can be."""

import hashlib
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantization_api.failures import Category, QuantizationError
from quantizer.store.checksum import CRCS
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import ARTIFACT, MODEL, Buffer, ObjectInfo, Place
from quantizer.store.readings import Known, Range, Readings
from quantizer.store.source import READINGS, StoreSource

pytestmark = pytest.mark.unit

CRC = CRCS["CRC32"]
DATA = bytes(range(256)) * 4


def flipped(data: bytes, at: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 4
    return bytes(changed)


def pieces(rng: random.Random, size: int) -> list[tuple[int, int]]:
    cuts = sorted({0, size, *(rng.randrange(size) for _ in range(rng.randrange(6)))})
    found = list(pairwise(cuts))
    rng.shuffle(found)
    return found


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), known=st.booleans())
def test_true_bytes_agree_however_they_are_cut(seed: int, known: bool) -> None:
    rng = random.Random(seed)
    readings = Readings(len(DATA), CRC, Known(CRC.of(DATA)) if known else None)
    for _ in range(4):
        for start, end in pieces(rng, len(DATA)):
            assert readings.agrees(start, DATA[start:end])
    assert list(readings.gaps()) == []
    ranges = readings.ranges()
    assert all(CRC.of(DATA[one.start : one.end]) == one.crc for one in ranges)
    assert [one.end for one in ranges[:-1]] == [one.start for one in ranges[1:]]


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_bit_that_flips_in_a_first_reading_is_noticed_when_the_object_is_covered(seed: int) -> None:
    rng = random.Random(seed)
    readings = Readings(len(DATA), CRC, Known(CRC.of(DATA)))
    cut = pieces(rng, len(DATA))
    bad = rng.randrange(len(cut))
    agreed = [
        readings.agrees(start, flipped(DATA[start:end]) if number == bad else DATA[start:end])
        for number, (start, end) in enumerate(cut)
    ]
    assert agreed == [True] * (len(cut) - 1) + [False]


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_bit_that_flips_in_the_second_reading_is_noticed_though_nobody_knows_the_whole(seed: int) -> None:
    """The second reading begins where the first did, as slices of a tensor do."""
    rng = random.Random(seed)
    readings = Readings(len(DATA), CRC)
    for start, end in pieces(rng, len(DATA)):
        assert readings.agrees(start, DATA[start:end])
    cut = sorted(pieces(rng, len(DATA)))
    bad = rng.randrange(len(cut))
    agreed = [
        readings.agrees(start, flipped(DATA[start:end]) if number == bad else DATA[start:end])
        for number, (start, end) in enumerate(cut)
    ]
    assert agreed[:bad] == [True] * bad
    assert False in agreed[bad:]


def test_bytes_that_do_not_agree_are_not_kept() -> None:
    readings = Readings(len(DATA), CRC)
    assert readings.agrees(0, DATA[:100])
    assert not readings.agrees(0, flipped(DATA[:200]))
    assert readings.agrees(0, DATA[:200])


def test_an_object_that_is_read_whole_is_compared_with_its_sha256() -> None:
    known = Known(sha256=hashlib.sha256(DATA).hexdigest())
    assert Readings(len(DATA), CRC, known).agrees(0, DATA)
    assert not Readings(len(DATA), CRC, known).agrees(0, flipped(DATA))


def test_an_etag_that_is_no_md5_is_no_flipped_bit() -> None:
    readings = Readings(len(DATA), CRC, Known(md5="0" * 32))
    assert not readings.agrees(0, DATA)
    assert readings.agrees(0, DATA), "the same bytes twice"
    readings = Readings(len(DATA), CRC, Known(md5=hashlib.md5(DATA, usedforsecurity=False).hexdigest()))
    assert not readings.agrees(0, flipped(DATA))
    assert readings.agrees(0, DATA)


def test_what_an_earlier_attempt_read_counts() -> None:
    first = Readings(len(DATA), CRC, Known(CRC.of(DATA)))
    assert first.agrees(100, flipped(DATA[100:500]))
    second = Readings(len(DATA), CRC, Known(CRC.of(DATA)))
    assert second.recall(first.ranges())
    assert second.agrees(0, DATA[:100])
    assert not second.agrees(500, DATA[500:]), "the first attempt saw another bit"
    third = Readings(len(DATA), CRC)
    assert third.agrees(100, DATA[100:500])
    assert not third.recall(first.ranges())
    assert third.recall([Range(0, 90, 1), Range(90, 120, 2), Range(600, 10**6, 3), Range(700, 650, 4)])
    assert [(one.start, one.end) for one in third.ranges()] == [(0, 90), (100, 500)]


class FlippingStore(DirectoryStore):
    """Gives other bytes than it has, as often as is asked for by key; with a checksum of the whole if asked for."""

    def __init__(self, root: Path, place: Place, whole: str | None = None) -> None:
        super().__init__(root, place)
        self.flips: dict[str, int] = {}
        self.reads = 0
        self._whole = whole

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        data = bytes(super().read(key, start, length, version))
        self.reads += 1
        if self.flips.get(key, 0) and length:
            self.flips[key] -= 1
            return flipped(data)
        return data

    def head(self, key: str) -> ObjectInfo | None:
        info = super().head(key)
        if info is None or self._whole is None:
            return info
        data = (self._root / key).read_bytes()
        return ObjectInfo(key, info.size, info.version, crc=(self._whole, CRCS[self._whole].of(data)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(DATA)
    return tmp_path


@pytest.mark.parametrize("whole", [*CRCS])
def test_a_flip_in_one_answer_is_read_again(folder: Path, whole: str) -> None:
    store = FlippingStore(folder, MODEL, whole)
    source = StoreSource(store, MODEL)
    store.flips["model.safetensors"] = 2
    assert source.read("model.safetensors", 0, len(DATA)) == DATA
    assert store.reads == READINGS
    assert not source.doubtful


@pytest.mark.parametrize("whole", [*CRCS])
def test_a_flip_in_a_range_is_noticed_when_the_file_was_read(folder: Path, whole: str) -> None:
    store = FlippingStore(folder, MODEL, whole)
    source = StoreSource(store, MODEL)
    store.flips["model.safetensors"] = 1
    source.read("model.safetensors", 0, 100)
    source.read("model.safetensors", 100, 400)
    with pytest.raises(QuantizationError, match="does not match its checksum or an earlier read") as caught:
        source.prove(["model.safetensors"])
    assert caught.value.category is Category.STORAGE_UNAVAILABLE
    assert source.doubtful


def test_without_a_checksum_the_revision_s_own_reading_is_one(folder: Path) -> None:
    store = FlippingStore(folder, MODEL)
    source = StoreSource(store, MODEL)
    source.revision(["model.safetensors"])
    store.flips["model.safetensors"] = 1
    source.read("model.safetensors", 0, 100)
    with pytest.raises(QuantizationError, match="does not match its checksum or an earlier read"):
        source.prove(["model.safetensors"])
    assert source.doubtful


def test_a_flip_while_the_revision_is_computed_is_no_other_revision(folder: Path) -> None:
    store = FlippingStore(folder, MODEL)
    source = StoreSource(store, MODEL)
    source.read("model.safetensors", 0, len(DATA))
    store.flips["model.safetensors"] = 1
    expected = StoreSource(DirectoryStore(folder, MODEL), MODEL).revision(["model.safetensors"])
    assert source.revision(["model.safetensors"]) == expected


def test_a_flip_of_an_artifact_is_a_corrupt_artifact(folder: Path) -> None:
    store = FlippingStore(folder, ARTIFACT)
    source = StoreSource(store, ARTIFACT)
    source.read("model.safetensors", 0, 100)
    store.flips["model.safetensors"] = READINGS
    with pytest.raises(QuantizationError) as caught:
        source.read("model.safetensors", 0, 100)
    assert caught.value.category is Category.ARTIFACT_CORRUPT


def test_what_was_read_is_noted_for_another_process(folder: Path) -> None:
    store = FlippingStore(folder, MODEL, "CRC64NVME")
    first = StoreSource(store, MODEL)
    store.flips["model.safetensors"] = 1
    first.read("model.safetensors", 0, 100)
    noted = first.noted()
    assert first.noted()["model.safetensors"]["ranges"] == [], "each is noted once"
    second = StoreSource(store, MODEL)
    assert second.recall(noted)
    with pytest.raises(QuantizationError):
        second.prove(["model.safetensors"])
    third = StoreSource(store, MODEL)
    third.read("model.safetensors", 0, 100)
    assert not third.recall(noted)
    assert third.recall(
        {"model.safetensors": {"version": "another", "crc": "CRC64NVME", "ranges": [[0, 100, 1]]}}
    )
