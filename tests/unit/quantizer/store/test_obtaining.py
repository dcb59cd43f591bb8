"""An artifact is found, taken over or made; whoever fails or comes late destroys nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.memory_store import MemoryStore
from tests.support.writers import LAYER, MODEL, OBJECTS, RECIPES, content, lacks, manifest, unlisted

from quantization_api.failures import CATALOGUE, Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, STATE_PREFIX, Manifest
from quantizer.store import claim as claims
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.claim import ClaimLostError
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT, Store
from quantizer.store.mark import ATTEMPTS, CLAIM_NAME, look
from quantizer.store.obtaining import Asked, Obtained, already_there, obtain

pytestmark = pytest.mark.unit

PERMANENT = [category for category, entry in CATALOGUE.items() if entry.permanent and entry.exit_code]


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "output", OUTPUT)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(claims, "LOOK_SECONDS", 0.01)


def asked(uid: str = "a", recipe: str = RECIPES[0], reuse: bool = True) -> Asked:
    return Asked(uid, f"default/{uid}", recipe, reuse)


class Making:
    """What is computed; between says what happens when everything is staged. times: how often it was."""

    def __init__(self, who: Asked, between: Callable[[], object] = lambda: None) -> None:
        self.who, self.between, self.times = who, between, 0

    def __call__(self, writer: ArtifactWriter) -> tuple[Manifest, bytes]:
        self.times += 1
        writer.store.put_bytes(LAYER, b"a finished layer")
        for key in OBJECTS:
            writer.put_bytes(key, content(key, self.who.recipe, self.who.uid, self.times))
        self.between()
        return writer.finish(manifest(self.who.recipe, self.who.uid, self.times))


def made(store: Store, who: Asked) -> Obtained:
    found = already_there(store, who)
    return found if found is not None else obtain(store, who, Making(who))


def bytes_of(store: Store) -> dict[str, bytes]:
    return {key: bytes(store.read(key, 0, info.size)) for key, info in store.list().items()}


def whole(store: Store) -> bool:
    return MANIFEST_NAME in store.list() and lacks(store) == [] and unlisted(store) == []


def test_an_artifact_and_nothing_else_is_left(store: Store) -> None:
    obtained = made(store, asked())
    assert (obtained.found, obtained.manifest.owner) == (False, "a")
    assert list(store.list()) == sorted([*OBJECTS, MANIFEST_NAME])
    assert whole(store)


def test_who_finds_an_artifact_does_not_become_its_owner(store: Store) -> None:
    made(store, asked("a"))
    found = made(store, asked("b"))
    assert (found.found, found.manifest.owner) == (True, "a")


@pytest.mark.parametrize("category", PERMANENT)
def test_a_failure_leaves_the_finished_layers_and_nothing_that_was_staged(
    store: Store, category: Category
) -> None:
    def fail() -> None:
        raise QuantizationError(category, "as asked for")

    with pytest.raises(QuantizationError, match="as asked for"):
        obtain(store, asked(), Making(asked(), fail))
    assert list(store.list()) == sorted([LAYER, CLAIM_NAME])
    seen = look(store)
    assert seen is not None
    assert seen.mark.released, "another job would wait for nobody"
    made(store, asked("b"))
    assert whole(store)


def test_a_failure_before_anything_was_finished_leaves_nothing(store: Store) -> None:
    def fail(_: ArtifactWriter) -> tuple[Manifest, bytes]:
        raise QuantizationError(Category.NUMERICAL_FAILURE, "as asked for")

    with pytest.raises(QuantizationError, match="as asked for"):
        obtain(store, asked(), fail)
    assert store.list() == {}


def test_layers_of_another_recipe_go_when_an_artifact_is_whole(store: Store) -> None:
    old = f"{STATE_PREFIX}{'b' * 16}/layer-00000.json"
    with pytest.raises(ZeroDivisionError):
        obtain(store, asked(), lambda _: (store.put_bytes(old, b"{}"), 1 // 0)[1])  # type: ignore[arg-type,return-value]
    assert old in store.list()
    made(store, asked("b"))
    assert whole(store)


@pytest.mark.parametrize("second", ["a", "b"], ids=["of the same job", "of another job"])
def test_who_was_overtaken_while_it_computed_destroys_nothing(store: Store, second: str) -> None:
    published: list[dict[str, bytes]] = []

    def overtaken() -> None:
        # the first one is stopped here: it does not renew its claim, and the second one finds out
        obtain(store, asked(second), Making(asked(second)))
        published.append(bytes_of(store))

    with pytest.raises(ClaimLostError) as caught:
        obtain(store, asked("a"), Making(asked("a"), overtaken))
    assert caught.value.category is Category.ARTIFACT_CONFLICT
    after = bytes_of(store)
    assert {key: after[key] for key in published[0]} == published[0]
    assert whole(store)


class Interrupted(MemoryStore):
    """Something happens just before the n-th copy."""

    def __init__(self, number: int, event: Callable[[], object]) -> None:
        super().__init__()
        self.number, self.event = number, event

    def copy(self, source: str, target: str) -> None:
        self.number -= 1
        if self.number == -1:
            self.event()
        super().copy(source, target)


@pytest.mark.parametrize("at", range(len(OBJECTS) + 1))
@pytest.mark.parametrize("second", ["a", "b"], ids=["of the same job", "of another job"])
def test_who_is_stopped_while_it_publishes_is_published_by_the_next(at: int, second: str) -> None:
    others: list[Obtained] = []
    store = Interrupted(at, lambda: others.append(made(store, asked(second))))
    first = obtain(store, asked("a"), Making(asked("a")))
    assert others[0].data == first.data, "two artifacts were published"
    assert others[0].found is (second == "b")
    assert whole(store)


@pytest.mark.parametrize("at", range(len(OBJECTS) + 1))
def test_who_wakes_up_after_its_artifact_was_removed_brings_nothing_back(at: int) -> None:
    def another() -> None:
        made(store, asked("a"))
        store.delete(store.list())  # by a person, say

    store = Interrupted(at, another)
    with pytest.raises(QuantizationError) as caught:
        obtain(store, asked("a"), Making(asked("a")))
    assert caught.value.category is Category.ARTIFACT_CONFLICT
    assert store.list() == {}


class KilledError(BaseException):
    """The process ends here."""


def killed_at(at: int) -> MemoryStore:
    """An output whose writer was killed before its n-th copy."""

    def kill() -> None:
        raise KilledError

    store = Interrupted(at, kill)
    with pytest.raises(KilledError):
        obtain(store, asked("a"), Making(asked("a")))
    return store


@pytest.mark.parametrize("at", range(len(OBJECTS) + 1))
def test_what_was_decided_is_published_without_being_computed_again(at: int) -> None:
    store, again = killed_at(at), Making(asked("a"))
    assert MANIFEST_NAME not in store.list()
    obtained = obtain(store, asked("a", reuse=False), again)
    assert (again.times, obtained.found) == (0, False)
    assert whole(store)


def test_what_was_decided_is_published_before_another_recipe_is_refused() -> None:
    store = killed_at(2)
    with pytest.raises(QuantizationError, match="another recipe"):
        made(store, asked("b", RECIPES[1]))
    assert lacks(store) == []
    assert MANIFEST_NAME in store.list()


def test_what_was_decided_and_is_lost_is_computed_again() -> None:
    store, again = killed_at(2), Making(asked("a"))
    store.delete([key for key in store.list(ATTEMPTS) if key.endswith(MODEL[1])])
    assert not obtain(store, asked("a"), again).found
    assert again.times == 1
    assert whole(store)


def test_an_artifact_that_is_made_anew_is_replaced_whole(store: Store) -> None:
    first = made(store, asked("a"))
    other = made(store, asked("b", reuse=False))
    assert (other.found, other.manifest.owner) == (False, "b")
    assert other.data != first.data
    assert whole(store)


def test_a_manifest_that_somebody_put_there_meanwhile_stays(store: Store) -> None:
    foreign = manifest(RECIPES[0], "somebody", 1).model_dump_json().encode()
    with pytest.raises(QuantizationError, match="another job published an artifact") as caught:
        obtain(store, asked(), Making(asked(), lambda: store.put_bytes(MANIFEST_NAME, foreign)))
    assert caught.value.category is Category.ARTIFACT_CONFLICT
    assert bytes_of(store)[MANIFEST_NAME] == foreign


def test_the_state_beside_a_whole_artifact_is_removed_by_who_finds_it(store: Store) -> None:
    made(store, asked("a"))
    store.put_bytes(LAYER, b"of a process that woke up late")
    made(store, asked("b"))
    assert whole(store)
