"""An artifact is removed whole, wherever the removal is killed, and nothing else is."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tests.support.writers import RECIPES, manifest

from quantization_api.failures import Category, ExitCode, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, Manifest
from quantizer.cli import parser
from quantizer.store import claim as claims
from quantizer.store.artifact import ArtifactWriter, Output
from quantizer.store.claim import Claim
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT
from quantizer.store.mark import CLAIM_NAME, look
from quantizer.store.obtaining import Asked, obtain
from quantizer.store.removal import REMOVED_MANIFEST, Ours, remove

pytestmark = pytest.mark.unit

RECIPE, ANOTHER = RECIPES
OBJECTS = ["README.md", "model/config.json", "model/model.safetensors", "report/report.html"]
FOREIGN = ["model/notes-of-a-person.txt", "elsewhere/file"]
LAYER = ".state/aaaa/layer-00000.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """An output with objects of a person beside it."""
    made = DirectoryStore(tmp_path / "output", OUTPUT)
    for key in FOREIGN:
        made.put_bytes(key, b"mine")
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(claims, "LOOK_SECONDS", 0.01)


def begin(store: DirectoryStore, recipe: str = RECIPE, uid: str = "a") -> tuple[Claim, ArtifactWriter]:
    """A run that has saved a layer and uploaded its objects."""
    for key in FOREIGN:
        store.delete([key])
    output = Output(store, recipe)
    claim = Claim(store, uid, f"default/{uid}", recipe).__enter__()
    writer = ArtifactWriter(output, claim, lambda: None, lambda _: None)
    store.put_bytes(LAYER, b"layer")
    for key in OBJECTS:
        writer.put_bytes(key, key.encode())
    for key in FOREIGN:
        store.put_bytes(key, b"mine")
    return claim, writer


def finished(store: DirectoryStore, recipe: str = RECIPE, uid: str = "a", owner: str = "") -> None:
    """An artifact; owner: as its manifest records it, "" as before owners were recorded."""
    claim, writer = begin(store, recipe, uid)
    store.delete(FOREIGN)
    writer.finish(manifest(recipe, owner, 0))
    claim.__exit__(None, None, None)
    for key in FOREIGN:
        store.put_bytes(key, b"mine")


def stopped(store: DirectoryStore, recipe: str = RECIPE, uid: str = "a") -> None:
    """What a killed run leaves."""
    begin(store, recipe, uid)[0]._stop_renewing()


def obtained(store: DirectoryStore, uid: str) -> bool:
    """A run without torch, from its first look to its end."""

    def make(writer: ArtifactWriter) -> tuple[Manifest, bytes]:
        store.put_bytes(LAYER, b"layer")
        for key in OBJECTS:
            writer.put_bytes(key, key.encode())
        return writer.finish(manifest(RECIPE, uid, 0))

    obtain(store, Asked(uid, f"default/{uid}", RECIPE), make)
    return True


def left(store: DirectoryStore) -> list[str]:
    return list(store.list())


@pytest.mark.parametrize(
    "ours",
    [Ours(RECIPE, "a"), Ours(RECIPE, "b"), Ours()],
    ids=["of its job", "of its recipe, for another job", "by its place"],
)
def test_an_artifact_is_removed_and_nothing_beside_it(store: DirectoryStore, ours: Ours) -> None:
    finished(store)
    assert remove(store, ours, "x", "x") == len(OBJECTS) + 1
    assert left(store) == sorted(FOREIGN)
    assert remove(store, ours, "x", "x") is None, "twice is as good as once"


@pytest.mark.parametrize(
    "ours",
    [Ours(ANOTHER, "a"), Ours(None, "a")],
    ids=["another recipe", "a job of which no result is known"],
)
def test_the_artifact_of_another_job_is_not_touched(store: DirectoryStore, ours: Ours) -> None:
    finished(store)
    before = left(store)
    assert remove(store, ours, "a", "a") is None
    assert left(store) == before


def test_what_a_stopped_run_left_is_removed_by_its_claim(store: DirectoryStore) -> None:
    stopped(store)
    assert remove(store, Ours(None, "b"), "b", "b") is None
    assert LAYER in left(store)
    assert remove(store, Ours(None, "a"), "a", "a") is not None
    # Without a manifest the claim is all there is to tell whose they are: the writer's own keys are the run's.
    assert left(store) == ["elsewhere/file"]


def test_a_run_that_was_stopped_after_its_manifest_is_removed(store: DirectoryStore) -> None:
    finished(store)
    mark = {"uid": "a", "job": "a", "recipe": RECIPE}  # a run of a version that recorded no owner
    store.put_bytes(CLAIM_NAME, json.dumps(mark).encode())
    assert remove(store, Ours(None, "a"), "a", "a") == len(OBJECTS) + 1
    assert left(store) == sorted(FOREIGN)


@pytest.mark.parametrize("recipe", [None, RECIPE, ANOTHER])
def test_the_owner_that_the_manifest_records_decides(store: DirectoryStore, recipe: str | None) -> None:
    finished(store, owner="a")
    before = left(store)
    assert remove(store, Ours(recipe, "b"), "b", "b") is None, "b only uses it"
    assert left(store) == before
    assert remove(store, Ours(recipe, "a"), "a", "a") == len(OBJECTS) + 1
    assert left(store) == sorted(FOREIGN)


@pytest.mark.parametrize("ours", [Ours(), Ours(RECIPE)], ids=["by its place", "by its recipe"])
def test_a_person_removes_what_any_job_made(store: DirectoryStore, ours: Ours) -> None:
    finished(store, owner="a")
    assert remove(store, ours, "x", "x") == len(OBJECTS) + 1
    assert left(store) == sorted(FOREIGN)


def test_a_person_removes_what_a_stopped_run_left(store: DirectoryStore) -> None:
    stopped(store)
    assert remove(store, Ours(), "x", "x") is not None
    assert left(store) == ["elsewhere/file"]


def test_what_another_job_has_decided_is_published_and_stays(tmp_path: Path) -> None:
    for writes in range(100):
        root = tmp_path / str(writes)
        plain = DirectoryStore(root, OUTPUT)
        try:
            begun = obtained(Dying(root, writes), "b")
        except KilledError:
            seen = look(plain)
            if seen is None or seen.mark.decision is None:
                continue
            remove(plain, Ours(RECIPE, "a"), "a", "a")
            assert remove(plain, Ours(None, "b"), "b", "b") is not None
            assert left(plain) == []
            begun = True
        if begun and writes > 30:
            return
    raise AssertionError("no run came to its decision")


def test_a_run_that_is_killed_anywhere_leaves_nothing_that_its_removal_does_not_find(tmp_path: Path) -> None:
    for writes in range(100):
        root = tmp_path / str(writes)
        plain = DirectoryStore(root, OUTPUT)
        try:
            obtained(Dying(root, writes), "a")
        except KilledError:
            remove(plain, Ours(RECIPE, "a"), "a", "a")
            assert left(plain) == [], writes
            continue
        assert writes > len(OBJECTS)
        return
    raise AssertionError("the run never ended")


def test_the_state_of_ours_beside_the_artifact_of_another_goes_alone(store: DirectoryStore) -> None:
    finished(store)
    store.put_bytes(CLAIM_NAME, json.dumps({"uid": "b", "job": "b", "recipe": ANOTHER}).encode())
    store.put_bytes(LAYER, b"layer")
    assert remove(store, Ours(None, "b"), "b", "b") == 0
    assert left(store) == sorted([*FOREIGN, *OBJECTS, MANIFEST_NAME])


def test_a_live_run_of_another_job_is_a_conflict(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(store)
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.001)
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 5.0)
    with Claim(store, "b", "default/b", RECIPE):
        before = {key for key in left(store) if key != CLAIM_NAME}
        with pytest.raises(QuantizationError) as caught:
            remove(store, Ours(RECIPE, "a"), "a", "a")
        assert caught.value.category is Category.ARTIFACT_CONFLICT
        assert {key for key in left(store) if key != CLAIM_NAME} == before


class KilledError(Exception):
    """The removal ends here."""


class Dying(DirectoryStore):
    """A store whose client dies at the n-th write, before or after it is done."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root, OUTPUT)
        self.left = writes

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        self._count()
        return super().put_bytes(key, data, if_absent, if_version)

    def copy(self, source: str, target: str) -> None:
        self._count()
        super().copy(source, target)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._count()
            super().delete([key])

    def delete_if(self, key: str, version: str) -> None:
        self._count()
        super().delete_if(key, version)

    def _count(self) -> None:
        if self.left == 0:
            raise KilledError
        self.left -= 1


@pytest.mark.parametrize("make", [finished, stopped])
def test_a_removal_that_is_killed_anywhere_is_finished_by_the_next(
    tmp_path: Path, make: Callable[[DirectoryStore], None]
) -> None:
    for writes in range(100):
        root = tmp_path / str(writes)
        plain = DirectoryStore(root, OUTPUT)
        make(plain)
        try:
            remove(Dying(root, writes), Ours(RECIPE, "a"), "a", "a")
        except KilledError:
            there = left(plain)
            if MANIFEST_NAME in there:
                assert set(OBJECTS) <= set(there), "what has a manifest is whole"
            elif make is finished:
                assert REMOVED_MANIFEST in there or not set(OBJECTS) & set(there)
            remove(plain, Ours(RECIPE, "a"), "a", "a")
            assert left(plain) == sorted(FOREIGN[1:] if make is stopped else FOREIGN), writes
            continue
        assert writes > len(OBJECTS)
        return
    raise AssertionError("the removal never ended")


def test_the_command_says_what_it_did(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    finished(store)
    assert parser.main(["delete", "--uid=a", f"--recipe={RECIPE}", store.uri]) == 0
    assert "deleted 5 objects" in capsys.readouterr().out
    assert left(store) == sorted(FOREIGN)
    assert parser.main(["delete", "--uid=a", store.uri]) == 0
    assert "nothing to delete" in capsys.readouterr().out


TRIALS = (
    f".trials/{'1' * 64}/model/model.safetensors",
    f".trials/{'1' * 64}.json",
    f".trials/{'2' * 64}/slot-0000.json",
)


def trial_of(store: DirectoryStore, uid: str) -> DirectoryStore:
    """A point that a worker was computing when it was killed."""
    trial = DirectoryStore(Path(store.uri.removeprefix("file://")) / ".trials" / ("3" * 64), OUTPUT)
    Claim(trial, uid, f"default/{uid}", RECIPE).__enter__()._stop_renewing()
    return trial


@pytest.mark.parametrize("of", [["--uid=a", f"--recipe={RECIPE}"], []], ids=["of a job", "by its place"])
def test_the_trials_of_a_search_go_with_its_artifact(
    store: DirectoryStore, of: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    finished(store, uid="a/0", owner="a")
    for key in TRIALS:
        store.put_bytes(key, b"trial")
    trial_of(store, "a/1")
    assert parser.main(["delete", *of, store.uri]) == 0
    assert "deleted 5 objects, 4 of trials" in capsys.readouterr().out
    assert left(store) == sorted(FOREIGN)


def test_the_trials_of_a_search_that_failed_are_removed(
    store: DirectoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put_bytes(TRIALS[0], b"trial")
    trial_of(store, "somebody killed long ago")
    assert parser.main(["delete", "--uid=a", store.uri]) == 0
    assert "of trials" in capsys.readouterr().out
    assert left(store) == sorted(FOREIGN)


def test_the_trials_of_another_job_stay(store: DirectoryStore) -> None:
    finished(store, uid="b/0", owner="b")
    store.put_bytes(TRIALS[0], b"trial")
    assert parser.main(["delete", "--uid=a", store.uri]) == 0
    assert TRIALS[0] in left(store)
    assert MANIFEST_NAME in left(store)


def test_a_trial_that_another_job_computes_is_a_conflict(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.001)
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 5.0)
    trial = DirectoryStore(Path(store.uri.removeprefix("file://")) / ".trials" / ("3" * 64), OUTPUT)
    with Claim(trial, "b/0", "default/b", RECIPE):
        assert parser.main(["delete", "--uid=a", store.uri]) == ExitCode.CANNOT_CREATE_OUTPUT


@pytest.mark.parametrize("worker", ["a/0", "a/17"])
def test_what_a_stopped_worker_of_the_job_left_is_removed_at_once(
    store: DirectoryStore, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(store, uid=worker)
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 3600)
    remove(store, Ours(uid="a"), "a", "a")
    assert left(store) == sorted(FOREIGN[1:])


def test_the_command_fails_with_a_sentence(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.put_bytes(MANIFEST_NAME, b"{}")
    assert parser.main(["delete", store.uri]) == ExitCode.CANNOT_CREATE_OUTPUT
    assert "is not an artifact's manifest" in " ".join(capsys.readouterr().err.split())
    assert MANIFEST_NAME in left(store)
