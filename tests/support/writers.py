"""Several writers of one output, interleaved request by request, with a fault at any of them: one number, one schedule.

Each writer is a thread that stands still before each of its requests until the schedule lets it go on. At that moment
the schedule may instead kill it, stop it for a while (as SIGSTOP does), lose the answer, refuse the request, or let it
arrive long after the writer has given it up. Between requests nothing happens, so a schedule is the same each time.
"""

import contextlib
import hashlib
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from unittest import mock

from quantization_api import ENGINE_VERSION
from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, STATE_PREFIX, InputRecord, Manifest
from quantizer.store import claim as claims
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.interface import (
    Buffer,
    ObjectInfo,
    PreconditionFailedError,
    StopCheck,
    Store,
    never_stop,
)
from quantizer.store.manifests import is_ours
from quantizer.store.obtaining import Asked, already_there, obtain

RECIPES = tuple("sha256:" + letter * 64 for letter in "ab")
MODEL = ("model/config.json", "model/model.safetensors")
REPORT = ("README.md", "report/report.html")
OBJECTS = tuple(sorted(MODEL + REPORT))
LAYER = f"{STATE_PREFIX}{'a' * 16}/layer-00000.json"
STEP_SECONDS = 30.0
"""No writer computes for so long between two requests; one that does hangs."""

Fault = str


class KilledError(BaseException):
    """The process is gone: it does nothing more, and learns nothing."""


def content(key: str, recipe: str, uid: str, attempt: int) -> bytes:
    """What a writer stores: of the model the same bytes for the same recipe, of the rest always others."""
    own = "" if key in MODEL else f" by {uid}, attempt {attempt}"
    return f"{key} of {recipe}{own}".encode()


def manifest(recipe: str, owner: str, attempt: int) -> Manifest:
    """A manifest without objects."""
    return Manifest(
        recipe=recipe,
        owner=owner,
        engine_version=ENGINE_VERSION,
        created=f"2026-01-01T00:00:{attempt:02d}Z",
        input=InputRecord(model_path="/m", revision="sha256:0", architecture="Llama", size_bytes=8),
        workflow={},
        passes=["GptqQuantizer"],
        checkpoint_format="gptq",
        bits_per_weight=4.5,
        compression_ratio=3.5,
        readers=[],
        metrics=[],
        modules=[],
        versions={},
        objects=[],
    )


@dataclass
class Writer:
    """One process. ended: "" while it runs, then "killed", "published", or the category of its error."""

    number: int
    uid: str
    recipe: str
    reuse: bool
    ended: str = ""
    digest: str = ""
    stopped_for: int = 0
    go: "queue.SimpleQueue[Fault]" = field(default_factory=queue.SimpleQueue)
    at: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    request: str = ""

    last: bool = False

    @property
    def asked(self) -> Asked:
        """What it wants at the output. The last one knows that all others are gone."""
        return Asked(self.uid, f"default/{self.uid}", self.recipe, self.reuse, lambda _: self.last)


class StepwiseStore:
    """The store as one writer sees it: each call waits for the schedule."""

    def __init__(self, store: Store, writer: Writer, late: list[Callable[[], object]]) -> None:
        self._store, self._writer, self._late = store, writer, late

    @property
    def uri(self) -> str:
        """See Store."""
        return self._store.uri

    def impatient(self) -> Self:
        """See Store."""
        return self

    def list(self, prefix: str = "") -> dict[str, ObjectInfo]:
        """See Store."""
        return self._call("list", lambda: self._store.list(prefix))

    def head(self, key: str) -> ObjectInfo | None:
        """See Store."""
        return self._call("head", lambda: self._store.head(key))

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        """See Store."""
        return self._call("read", lambda: self._store.read(key, start, length, version))

    def put_file(self, key: str, path: Path, stop_check: StopCheck = never_stop) -> None:
        """See Store."""
        self._call("put", lambda: self._store.put_file(key, path, stop_check))

    def put_bytes(self, key: str, data: bytes, if_absent: bool = False, if_version: str | None = None) -> str:
        """See Store."""
        kind = "swap" if if_absent or if_version is not None else "put"
        return self._call(kind, lambda: self._store.put_bytes(key, data, if_absent, if_version))

    def copy(self, source: str, target: str) -> None:
        """See Store."""
        self._call("copy", lambda: self._store.copy(source, target))

    def delete(self, keys: Iterable[str]) -> None:
        """See Store."""
        wanted = list(keys)
        if wanted:
            self._call("delete", lambda: self._store.delete(wanted))

    def delete_if(self, key: str, version: str) -> None:
        """See Store."""
        self._call("delete", lambda: self._store.delete_if(key, version))

    def abort_uploads(self) -> int:
        """See Store."""
        return 0

    def sleep(self, _: float) -> None:
        """What the writer sleeps with: others go on meanwhile."""
        self._call("sleep", lambda: None)

    def _call(self, kind: str, action: Callable[[], Any]) -> Any:
        if self._writer.ended == "killed":
            raise KilledError
        self._writer.at.put(kind)
        fault = self._writer.go.get(timeout=STEP_SECONDS)
        if fault == "killed after":
            with contextlib.suppress(QuantizationError, PreconditionFailedError):
                action()
        if fault in ("kill", "killed after"):
            self._writer.ended = "killed"
            raise KilledError
        if fault == "conflict":
            raise PreconditionFailedError("409")
        if fault == "away":
            raise QuantizationError(Category.STORAGE_UNAVAILABLE, "the storage is away")
        if fault == "late":
            self._late.append(action)
            raise QuantizationError(Category.STORAGE_UNAVAILABLE, "no answer")
        if fault == "twice":
            self._late.append(action)
        if fault == "lost answer":
            with contextlib.suppress(QuantizationError, PreconditionFailedError):
                action()
        return action()


ENDS = ("", "killed", "published", "ArtifactConflict", "ArtifactCorrupt", "StorageUnavailable")
WRITES = ("put", "swap", "copy", "delete")


@dataclass
class Schedule:
    """A seeded run of several writers against a store.

    judge: called after each step that may have changed something; raises AssertionError.
    """

    seed: int
    store: Store
    judge: Callable[["Schedule"], None]
    writers: list[Writer] = field(default_factory=list)
    late: list[Callable[[], object]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)
    threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.rate = self.chance.choice((0.0, 0.02, 0.06, 0.15))
        self.recipes = self.chance.choice(((0, 0), (0, 0), (0, 0), (0, 1)))
        self.uids = self.chance.choice((("one", "one"), ("one", "one"), ("one", "two")))
        self.reuses = self.chance.choice(((True, True), (True, True), (True, True), (True, False)))
        self.left = self.chance.choice((2, 2, 3, 4))

    @property
    def lasting(self) -> bool:
        """Whether what is published once stays: nobody insists on making it anew."""
        return all(self.reuses)

    def run(self) -> None:
        """To the end of all writers, of what is under way, and of a last writer that meets no fault."""
        self._start(0)
        while self._alive() or self.left > 0:
            self._step()
        self._settle_late()
        last = self._start(0, last=True)
        while not last.ended:
            self._let(last, "")

    def _step(self) -> None:
        alive = self._alive()
        if self.left > 0 and (not alive or self.chance.random() < 0.03):
            self._start(self.chance.randrange(2))
            return
        if self.late and self.chance.random() < 0.05:
            self._arrive()
            return
        for writer in alive:
            writer.stopped_for = max(0, writer.stopped_for - 1)
        awake = [writer for writer in alive if not writer.stopped_for] or alive
        writer = self.chance.choice(awake)
        self._let(writer, self._fault(writer))

    def _fault(self, writer: Writer) -> Fault:
        if self.chance.random() >= self.rate:
            return ""
        kinds = ["kill", "stop", "stop"]
        if writer.request in WRITES:
            kinds += ["killed after", "lost answer", "late", "twice", "away"]
        if writer.request == "swap":
            kinds += ["conflict", "late", "lost answer", "stop"]
        fault = self.chance.choice(kinds)
        self.faults.add(f"{fault} at {writer.request}")
        if fault != "stop":
            return fault
        writer.stopped_for = self.chance.choice((5, 40, 400))
        self._tell(writer, "stopped")
        return "wait"

    def _let(self, writer: Writer, fault: Fault) -> None:
        if fault == "wait":
            return
        self._tell(writer, fault)
        writes = writer.request in WRITES
        writer.go.put(fault)
        self._await(writer)
        if writes or writer.ended:
            self.judge(self)

    def _await(self, writer: Writer) -> None:
        writer.request = writer.at.get(timeout=STEP_SECONDS)

    def _start(self, which: int, last: bool = False) -> Writer:
        self.left -= 1
        number = len(self.writers)
        writer = Writer(number, self.uids[which], RECIPES[self.recipes[which]], self.reuses[which], last=last)
        self.writers.append(writer)
        nonce = f"{self.chance.getrandbits(128):032x}"
        thread = threading.Thread(target=self._work, args=(writer,), name=nonce, daemon=True)
        self.threads.append(thread)
        thread.start()
        self._await(writer)
        return writer

    def _work(self, writer: Writer) -> None:
        store = StepwiseStore(self.store, writer, self.late)
        try:
            found = already_there(store, writer.asked, store.sleep)
            if found is None:
                found = obtain(store, writer.asked, lambda to: self._make(to, writer), sleep=store.sleep)
            writer.digest = hashlib.sha256(found.data).hexdigest()
            writer.ended = "published"
        except KilledError:
            writer.ended = "killed"
        except QuantizationError as error:
            writer.ended = str(error.category)
        except BaseException as error:  # noqa: BLE001 - the schedule tells it
            writer.ended = f"raised {error!r}"
        writer.at.put("ended")

    def _make(self, to: ArtifactWriter, writer: Writer) -> tuple[Manifest, bytes]:
        to.store.put_bytes(LAYER, b"a finished layer")
        for key in OBJECTS:
            to.put_bytes(key, content(key, writer.recipe, writer.uid, writer.number))
        return to.finish(manifest(writer.recipe, writer.uid, writer.number))

    def _alive(self) -> list[Writer]:
        return [writer for writer in self.writers if not writer.ended]

    def _arrive(self) -> None:
        action = self.late.pop(self.chance.randrange(len(self.late)))
        self.told.append("a late request arrives")
        with contextlib.suppress(QuantizationError, PreconditionFailedError):
            action()
        self.judge(self)

    def _settle_late(self) -> None:
        while self.late:
            self._arrive()

    def _tell(self, writer: Writer, fault: Fault) -> None:
        self.told.append(f"{writer.number} {writer.uid} {writer.request}{f': {fault}' if fault else ''}")


def lacks(store: Store) -> list[str]:
    """Keys of the manifest that lies there whose objects are missing or other ones; [] where there is no manifest."""
    there = _read(store, MANIFEST_NAME)
    if there is None:
        return []
    listed = Manifest.model_validate_json(there).objects
    found = {item.key: _read(store, item.key) for item in listed}
    return [
        item.key
        for item in listed
        if (data := found[item.key]) is None or hashlib.sha256(data).hexdigest() != item.sha256
    ]


def digest_of(store: Store) -> str:
    """Of the manifest that lies there; "" where there is none."""
    there = _read(store, MANIFEST_NAME)
    return "" if there is None else hashlib.sha256(there).hexdigest()


def unlisted(store: Store) -> list[str]:
    """What lies at an output beside its artifact."""
    there = _read(store, MANIFEST_NAME)
    listed = {item.key for item in Manifest.model_validate_json(there).objects} if there else set()
    return [
        key for key in store.list() if key not in listed and (is_ours(key) or key.startswith(STATE_PREFIX))
    ]


def _read(store: Store, key: str) -> bytes | None:
    info = store.head(key)
    return None if info is None else bytes(store.read(key, 0, info.size))


def _name_of_the_thread() -> str:
    return threading.current_thread().name


@contextlib.contextmanager
def impatient_claims() -> Iterator[None]:
    """Claims that are taken over after three looks, whatever the clock says, with the nonces of the schedule."""
    with (
        mock.patch.object(claims, "LOOK_SECONDS", 1.0),
        mock.patch.object(claims, "PATIENCE_SECONDS", 3.0),
        mock.patch.object(claims, "make_nonce", _name_of_the_thread),
    ):
        yield


class Judge:
    """What must hold after each step of a schedule, and at its end."""

    def __init__(self) -> None:
        self._published = ""

    def step(self, schedule: Schedule) -> None:
        """What has a manifest is whole; what was published stays; who says that it published is right."""
        wrong = lacks(schedule.store)
        assert not wrong, f"there is a manifest, but {wrong} are missing or others"
        now = digest_of(schedule.store)
        if schedule.lasting and self._published:
            assert now == self._published, "what was published is gone"
        self._published = now or self._published
        for writer in schedule.writers:
            assert writer.ended in ENDS, writer.ended
            if writer.ended == "ArtifactCorrupt":  # who lost the output says so, unless it cannot find out
                assert schedule.faults & {"away at swap", "late at swap"}, "a loss is told as a damage"
            if writer.ended == "published" and schedule.lasting:
                assert writer.digest == now, f"writer {writer.number} ended with another artifact"

    def end(self, schedule: Schedule) -> None:
        """One whole artifact and nothing beside it, or what the last writer was told is true."""
        last = schedule.writers[-1]
        if last.ended == "published":
            assert digest_of(schedule.store) == last.digest
            assert unlisted(schedule.store) == []
        else:
            assert (last.ended, schedule.recipes) == ("ArtifactConflict", (0, 1))


def play(seed: int, store: Store) -> Schedule:
    """Runs a schedule and judges it; what is wrong is told with all its steps."""
    judge = Judge()
    schedule = Schedule(seed, store, judge.step)
    try:
        with impatient_claims():
            schedule.run()
        judge.end(schedule)
    except (AssertionError, queue.Empty) as error:
        steps = "\n".join(schedule.told[-120:])
        raise AssertionError(f"schedule {seed}: {error!r}\n{steps}\n{schedule.writers}") from error
    return schedule
