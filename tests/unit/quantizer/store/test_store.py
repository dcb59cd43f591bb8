"""Directories as stores, locations, claims and revisions."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import STATE_PREFIX
from quantizer.run.local_identity import has_ended, local_uid
from quantizer.store import claim as claims
from quantizer.store.artifact import ArtifactWriter, Output
from quantizer.store.claim import Claim, ClaimLostError
from quantizer.store.directory import DirectoryStore
from quantizer.store.directory_errors import translated
from quantizer.store.interface import MODEL, OUTPUT, PreconditionFailedError
from quantizer.store.location import Location
from quantizer.store.mark import CLAIM_NAME, Decision, look
from quantizer.store.source import StoreSource

pytestmark = pytest.mark.unit

DIGEST = "sha256:" + 64 * "0"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "root", OUTPUT)


def test_what_is_written_is_listed_and_read_by_range(store: DirectoryStore) -> None:
    assert store.list() == {}
    version = store.put_bytes("model/a.bin", b"0123456789")
    assert list(store.list()) == ["model/a.bin"]
    assert bytes(store.read("model/a.bin", 2, 3, version)) == b"234"
    assert store.head("model/b.bin") is None
    store.delete(["model/a.bin", "model/never"])
    assert store.list() == {}


def test_what_another_process_removes_meanwhile_is_not_there(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of the other process's attempt vanish under a listing; that is no reason to end a job for good."""
    for key in ("model/kept", "model/going/a", "going"):
        store.put_bytes(key, b"x")
    real_scan, real_exists = os.scandir, os.path.lexists

    def scan(path: str) -> object:
        if str(path).endswith("model/going"):
            shutil.rmtree(path)
        return real_scan(path)

    def exists(path: Path) -> bool:
        there = real_exists(path)
        path.unlink()
        return there

    monkeypatch.setattr(os, "scandir", scan)
    assert list(store.list()) == ["going", "model/kept"]
    store.put_bytes("model/going/a", b"x")
    assert store.abort_uploads() == 0
    monkeypatch.setattr(os.path, "lexists", exists)
    assert store.head("going") is None


def test_a_file_that_another_process_sweeps_away_is_written_again(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []
    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        if not swept:
            swept.append(store.abort_uploads())

    monkeypatch.setattr(os, "fsync", sync)
    store.put_bytes("model/a", b"x")
    assert swept == [1]
    assert list(store.list()) == ["model/a"]


def test_directories_that_a_kill_left_empty_go_with_the_last_file(
    store: DirectoryStore, tmp_path: Path
) -> None:
    store.put_bytes(".state/claim.json", b"{}")
    store.put_bytes("model/a", b"x")
    (tmp_path / "root/.state/0123/deep").mkdir(parents=True)
    (tmp_path / "root/model/of-a-person").mkdir()
    store.delete_if(".state/claim.json", store.list()[".state/claim.json"].version)
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["model"]
    assert (tmp_path / "root/model/of-a-person").is_dir()


def test_a_file_is_stored_whole_or_not_at_all(store: DirectoryStore, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    source = tmp_path / "source"
    source.write_bytes(b"x" * 100)
    with pytest.raises(StoppedError):
        store.put_file("file", source, stop)
    assert store.list() == {}
    assert list((tmp_path / "root").iterdir()) == []
    store.put_file("file", source)
    assert store.list()["file"].size == 100


def test_conditions_of_a_write_are_kept(store: DirectoryStore) -> None:
    first = store.put_bytes("manifest.json", b"one", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.put_bytes("manifest.json", b"two", if_absent=True)
    second = store.put_bytes("manifest.json", b"two", if_version=first)
    with pytest.raises(PreconditionFailedError):
        store.put_bytes("manifest.json", b"three", if_version=first)
    assert bytes(store.read("manifest.json", 0, 3, second)) == b"two"


def test_a_file_that_changes_or_ends_early_is_damaged(store: DirectoryStore) -> None:
    version = store.put_bytes("file", b"0123456789")
    store.put_bytes("file", b"9876543210")
    for start, length, seen in ((0, 3, version), (8, 5, None)):
        with pytest.raises(QuantizationError) as caught:
            store.read("file", start, length, seen)
        assert caught.value.category is OUTPUT.changed


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(QuantizationError, match="was deleted during the run") as caught:
        DirectoryStore(tmp_path, MODEL).read("nothing", 0, 1)  # what is read was listed
    assert caught.value.category is Category.STORAGE_UNAVAILABLE
    with pytest.raises(QuantizationError, match="not a directory") as caught:
        DirectoryStore(tmp_path / "file", OUTPUT).put_bytes("below", b"")
    assert caught.value.category is Category.INVALID_WORKFLOW


@pytest.mark.parametrize(
    ("code", "category"),
    [
        (errno.ENOENT, Category.MODEL_NOT_FOUND),
        (errno.EACCES, Category.ACCESS_DENIED),
        (errno.EPERM, Category.ACCESS_DENIED),
        (errno.EROFS, Category.ACCESS_DENIED),
        (errno.ENOSPC, Category.SCRATCH_FULL),
        (errno.EDQUOT, Category.SCRATCH_FULL),
        (errno.EIO, Category.STORAGE_UNAVAILABLE),
        (errno.ESTALE, Category.STORAGE_UNAVAILABLE),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else str(value),
)
def test_an_error_of_the_file_system_has_its_category(code: int, category: Category) -> None:
    with pytest.raises(QuantizationError) as caught, translated(MODEL, "file:///x"):
        raise OSError(code, os.strerror(code))
    assert caught.value.category is category


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("file:///a/b", "file:///a/b"),
        ("/a/b/", "file:///a/b"),
        (".", f"file://{Path.cwd()}"),
    ],
)
def test_a_uri_is_parsed(uri: str, expected: str) -> None:
    assert Location.parse(uri).uri == expected


@pytest.mark.parametrize(
    "uri", ["s3://bucket", "s3://bucket/", "s3:///key", "file://host/a", "gs://bucket/a"]
)
def test_a_uri_that_leads_nowhere_is_refused(uri: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        Location.parse(uri)
    assert caught.value.category is Category.INVALID_WORKFLOW
    assert uri in caught.value.message


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("s3://bucket/a", "s3://bucket/a/b", True),
        ("s3://bucket/a/b", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket/a", "s3://other/a", False),
        ("/a", "s3://bucket/a", False),
    ],
)
def test_places_that_lie_in_one_another_are_seen(one: str, other: str, overlap: bool) -> None:
    assert Location.parse(one).overlaps(Location.parse(other)) is overlap


def test_the_revision_depends_on_names_and_bytes_alone(tmp_path: Path) -> None:
    def revision(folder: str, files: dict[str, bytes]) -> str:
        root = tmp_path / folder
        root.mkdir()
        for name, data in files.items():
            (root / name).write_bytes(data)
        store = DirectoryStore(root, MODEL)
        source = StoreSource(store, MODEL)
        return source.revision(source.files)

    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    one = revision("one", files)
    assert revision("two", dict(reversed(files.items()))) == one
    assert revision("three", {**files, "model.safetensors": b"WEIGHTS"}) != one
    assert revision("four", {"config.json": b"{}", "other.safetensors": b"weights"}) != one
    assert revision("five", {**files, "\udcff.safetensors": b"a name that is no text"}) != one


class Watching:
    """A clock for claims: every sleep lets something happen."""

    def __init__(self, action: Callable[[], object] = lambda: None) -> None:
        self.action, self.slept = action, 0.0

    def __call__(self, seconds: float) -> None:
        self.slept += seconds
        self.action()


def test_a_claim_is_held_and_released(store: DirectoryStore) -> None:
    with Claim(store, "a", "default/a", "r") as claim:
        assert CLAIM_NAME in store.list()
        claim.check()
        claim.release()
    assert store.list() == {}


def dies(claim: Claim) -> None:
    """As a process does that is killed: it renews no more, and lets nothing go."""
    claim._stop_renewing()


def test_the_claim_of_a_living_job_is_a_conflict(store: DirectoryStore) -> None:
    with Claim(store, "a", "default/a", "r") as living:
        with pytest.raises(QuantizationError, match="default/a is writing to it") as caught:
            Claim(store, "b", "default/b", "r", sleep=Watching(living.renew)).take()
        assert caught.value.category is Category.ARTIFACT_CONFLICT


def test_the_claim_of_a_killed_job_is_taken_over_after_watching_it(store: DirectoryStore) -> None:
    dies(Claim(store, "a", "default/a", "r").__enter__())
    watching = Watching()
    with Claim(store, "b", "default/b", "r", sleep=watching):
        assert watching.slept >= claims.PATIENCE_SECONDS > 2 * claims.RENEW_SECONDS


def test_a_claim_that_was_let_go_is_taken_at_once(store: DirectoryStore) -> None:
    with Claim(store, "a", "default/a", "r"):
        pass
    watching = Watching()
    with Claim(store, "b", "default/b", "r", sleep=watching):
        assert watching.slept == 0


def test_a_claim_that_is_released_while_it_is_watched_is_taken(store: DirectoryStore) -> None:
    living = Claim(store, "a", "default/a", "r").__enter__()
    with Claim(
        store, "b", "default/b", "r", sleep=Watching(lambda: living._ended or living.release())
    ) as claim:
        claim.check()


def test_another_attempt_of_the_same_job_does_not_wait(store: DirectoryStore) -> None:
    dies(Claim(store, "a", "default/a", "r").__enter__())
    watching = Watching()
    with Claim(store, "a", "default/a", "r", sleep=watching):
        assert watching.slept == 0


def test_a_process_that_is_gone_is_not_watched(store: DirectoryStore) -> None:
    mine = local_uid()
    gone = mine.rpartition(":")[0] + ":1"
    assert has_ended(gone)
    assert not has_ended(mine)
    assert not has_ended("5d3a-of-a-cluster")
    dies(Claim(store, gone, "default/a", "r").__enter__())
    watching = Watching()
    with Claim(store, mine, "default/b", "r", has_ended, watching):
        assert watching.slept == 0


class DyingStore(DirectoryStore):
    """A run that is killed while it removes its claim: everything before that is done."""

    def delete_if(self, key: str, version: str) -> None:
        raise KeyboardInterrupt(key, version)


def test_a_claim_that_a_kill_in_its_release_left_hinders_nobody(tmp_path: Path) -> None:
    dying, store = DyingStore(tmp_path / "root", OUTPUT), DirectoryStore(tmp_path / "root", OUTPUT)
    dying.put_bytes(f"{STATE_PREFIX}0/layer-00000.json", b"{}")
    with pytest.raises(KeyboardInterrupt):
        Claim(dying, "a", "default/a", "r").__enter__().release()
    assert list(store.list()) == [CLAIM_NAME]
    assert Output(store, "sha256:" + 64 * "0").manifest is None  # no conflict: it is the mark of a run
    watching = Watching()
    with Claim(store, "b", "default/b", "r", sleep=watching) as claim:
        claim.release()
    assert watching.slept == 0
    assert store.list() == {}


def test_who_lost_its_claim_stops(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.01)
    with Claim(store, "a", "default/a", "r") as claim:
        store.delete([CLAIM_NAME])
        claim._thread.join(10)
        with pytest.raises(ClaimLostError, match="another job took it over") as caught:
            claim.check()
    assert caught.value.category is Category.ARTIFACT_CONFLICT


def test_an_attempt_of_the_same_job_that_was_overtaken_is_out(store: DirectoryStore) -> None:
    overtaken = Claim(store, "a", "default/a", "r").__enter__()
    with Claim(store, "a", "default/a", "r") as claim:
        with pytest.raises(ClaimLostError):
            overtaken.decide(Decision(attempt=overtaken.nonce, manifest=DIGEST))
        claim.renew()
        overtaken.__exit__(None, None, None)
        seen = look(store)
    assert seen is not None
    assert seen.mark.nonce == claim.nonce, "who lost the claim wrote it"


class Answering(DirectoryStore):
    """A server that loses its answer to a conditional write, or refuses it once without doing it."""

    done, times = True, 0

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        if self.times:
            self.times -= 1
            if self.done:
                super().put_bytes(key, data, if_absent, if_version)
            raise PreconditionFailedError(key)
        return super().put_bytes(key, data, if_absent, if_version)


@pytest.mark.parametrize("done", [True, False], ids=["a lost answer, and the retry's 412", "409"])
@pytest.mark.parametrize("at", ["taking", "renewing", "deciding", "releasing"])
def test_a_refusal_of_our_own_write_is_no_loss(tmp_path: Path, done: bool, at: str) -> None:
    store = Answering(tmp_path / "root", OUTPUT)
    store.done = done
    store.times = 3 if at == "taking" and not done else int(at == "taking")
    claim = Claim(store, "a", "default/a", "r", sleep=Watching()).__enter__()
    store.times = int(at != "taking")
    if at == "renewing":
        claim.renew()
    if at == "deciding":
        decision = Decision(attempt=claim.nonce, manifest=DIGEST)
        claim.decide(decision)
        seen = look(store)
        assert seen is not None
        assert seen.mark.decision == decision
    assert store.times == int(at == "releasing")
    claim.release()
    assert store.list() == {}


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b"\xff\x00",
        b'{"uid": 7}',
        b'{"uid": "x", "nonce": "../../model"}',
        b"[" * 50_000,
        b'{"uid": "' + b"x" * 100_000 + b'"}',
    ],
    ids=["empty", "a list", "no text", "a number", "a path", "deep", "long"],
)
def test_a_claim_that_is_none_is_watched_and_taken(store: DirectoryStore, text: bytes) -> None:
    store.put_bytes(CLAIM_NAME, text)
    watching = Watching()
    with Claim(store, "a", "default/a", "r", sleep=watching) as claim:
        assert watching.slept >= claims.PATIENCE_SECONDS
        claim.release()
    assert store.list() == {}


class LyingStore(DirectoryStore):
    """Stores other bytes than it was given, `lies` times."""

    lies = 0

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        if "/model/" in key and self.lies:
            self.lies -= 1
            data = bytes(len(data))
        return super().put_bytes(key, data, if_absent, if_version)


@pytest.mark.parametrize(("lies", "good"), [(1, True), (2, False)])
def test_what_was_stored_is_read_back(tmp_path: Path, lies: int, good: bool) -> None:
    store = LyingStore(tmp_path / "root", OUTPUT)
    store.lies = lies
    with Claim(store, "a", "default/a", "r") as claim:
        writer = ArtifactWriter(Output(store, "sha256:" + 64 * "0"), claim, lambda: None, lambda _: None)
        if good:
            writer.put_bytes("model/a", b"bytes")
            assert [item.key for item in writer.objects] == ["model/a"]
        else:
            with pytest.raises(QuantizationError) as caught:
                writer.put_bytes("model/a", b"bytes")
            assert caught.value.category is Category.ARTIFACT_CORRUPT


def test_objects_without_manifest_or_claim_are_somebody_elses(store: DirectoryStore) -> None:
    store.put_bytes("notes.txt", b"not in our way")
    Output(store, "r")
    store.put_bytes("model/precious", b"x")
    with pytest.raises(QuantizationError, match="model/precious") as caught:
        Output(store, "r")
    assert caught.value.category is Category.ARTIFACT_CONFLICT
    store.put_bytes(CLAIM_NAME, b"{}")
    Output(store, "r")  # what a killed run left


def test_a_manifest_that_is_none_of_ours_is_a_conflict(store: DirectoryStore) -> None:
    store.put_bytes("manifest.json", b'{"name": "a web app"}')
    with pytest.raises(QuantizationError) as caught:
        Output(store, "r")
    assert caught.value.category is Category.ARTIFACT_CONFLICT
