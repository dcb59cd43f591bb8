"""A storage that is away, busy or lossy costs no attempt; one that refuses is told at once. On a real S3 server."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.outages import run_through_an_outage
from tests.support.quantizer_requests import MODEL, TEXT
from tests.support.s3 import S3Server
from tests.support.s3_proxy import S3Proxy

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantizer.store import patience, s3_upload
from quantizer.store.interface import MODEL as MODEL_PLACE
from quantizer.store.interface import OUTPUT, PreconditionFailedError
from quantizer.store.patience import Patience
from quantizer.store.s3 import S3Store

pytestmark = pytest.mark.integration

PART = 5 * 1024 * 1024
"""The smallest part that S3 takes."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.upload("models", "stories15m", MODEL)
        server.upload("datasets", "tinystories", TEXT)
        server.client().create_bucket(Bucket="artifacts")
        yield server


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_upload, "PART_BYTES", PART)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
    with S3Proxy(s3.endpoint) as made:
        yield made


@pytest.fixture
def store(proxy: S3Proxy, request: pytest.FixtureRequest) -> S3Store:
    name = request.node.name.translate({ord(c): "-" for c in "_[] "})
    return S3Store("artifacts", name, OUTPUT, StorageAccess(endpoint=proxy.endpoint), quickly())


def quickly(seconds: float = 30) -> Patience:
    """Patience without luck, so that pauses are short."""
    return Patience(seconds, luck=lambda: 0.0)


def is_a(method: str, *words: str) -> Callable[[str, str], bool]:
    return lambda asked, path: asked == method and all(word in path for word in words)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3 * PART + 17))
    return path


def uploads(s3: S3Server) -> list[str]:
    return [item["Key"] for item in s3.client().list_multipart_uploads(Bucket="artifacts").get("Uploads", [])]


CALLS: dict[str, Callable[[S3Store, Path], object]] = {
    "list": lambda store, _: store.list(),
    "head": lambda store, _: store.head("there"),
    "read": lambda store, _: store.read("there", 0, 5),
    "put_bytes": lambda store, _: store.put_bytes("new", b"new"),
    "put_file": lambda store, path: store.put_file("new", path),
    "put a small file": lambda store, _: store.put_file("new", Path(__file__)),
    "delete": lambda store, _: store.delete(["there"]),
    "abort_uploads": lambda store, _: store.abort_uploads(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("what", ["busy", "lose"])
def test_every_call_survives_a_burst(
    store: S3Store, proxy: S3Proxy, large: Path, name: str, what: str, s3: S3Server
) -> None:
    store.put_bytes("there", b"there")
    fault = proxy.add(what, lambda *_: True, times=3)  # type: ignore[arg-type]
    CALLS[name](store, large)
    assert len(fault.done) == 3
    if name.startswith("put"):
        stored = store.head("new")
        assert stored is not None
        assert stored.size == {"put_bytes": 3, "put_file": 3 * PART + 17}.get(
            name, Path(__file__).stat().st_size
        )
    assert uploads(s3) == []


def test_retry_after_is_honoured(store: S3Store, proxy: S3Proxy) -> None:
    proxy.add("busy", lambda *_: True, retry_after=2)
    began = time.monotonic()
    store.list()
    assert 2 <= time.monotonic() - began < 10


def test_who_is_refused_does_not_wait(s3: S3Server, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = S3Store("artifacts", "refused", OUTPUT, StorageAccess(endpoint=proxy.endpoint), quickly())
    for name in ("list", "read", "put_bytes", "put_file", "delete"):
        proxy.requests.clear()
        with pytest.raises(QuantizationError) as told:
            CALLS[name](store, Path(__file__))
        assert told.value.category is Category.ACCESS_DENIED
        assert len(proxy.requests) == 1


def test_a_bucket_that_is_not_there_is_told_at_once(proxy: S3Proxy) -> None:
    store = S3Store("no-such-bucket", "x", MODEL_PLACE, StorageAccess(endpoint=proxy.endpoint), quickly())
    with pytest.raises(QuantizationError, match="no bucket no-such-bucket") as told:
        store.list()
    assert told.value.category is Category.MODEL_NOT_FOUND
    assert len(proxy.requests) == 1


def test_a_body_that_breaks_off_is_read_on_from_there(store: S3Store, proxy: S3Proxy) -> None:
    data = os.urandom(3_000_000)
    store.put_bytes("there", data)
    fault = proxy.add("cut", is_a("GET", "/there"), times=5)
    assert bytes(store.read("there", 0, len(data))) == data
    assert len(fault.done) == 5


@pytest.mark.parametrize("name", ["put_bytes", "put_file", "put a small file"])
def test_an_upload_that_arrives_damaged_is_sent_again_at_once(
    store: S3Store, proxy: S3Proxy, large: Path, name: str, s3: S3Server
) -> None:
    fault = proxy.add("flip request", is_a("PUT", "/new"), times=1)
    began = time.monotonic()
    CALLS[name](store, large)
    assert len(fault.done) == 1
    assert time.monotonic() - began < 5
    stored = store.head("new")
    assert stored is not None
    if name == "put_file":
        assert bytes(store.read("new", 0, stored.size)) == large.read_bytes()
    assert uploads(s3) == []


def test_an_upload_that_is_damaged_each_time_is_an_error_with_a_true_sentence(
    store: S3Store, proxy: S3Proxy, large: Path, s3: S3Server
) -> None:
    proxy.add("flip request", is_a("PUT", "/new"), times=1000)
    for name in ("put_bytes", "put_file"):
        with pytest.raises(QuantizationError, match="the request arrived corrupted") as told:
            CALLS[name](store, large)
        assert told.value.category is Category.STORAGE_UNAVAILABLE
    assert store.list() == {}
    assert uploads(s3) == []


def test_a_conditional_put_whose_answer_was_lost_is_for_the_caller_to_judge(
    store: S3Store, proxy: S3Proxy
) -> None:
    proxy.add("lose", is_a("PUT", "/claim"))
    with pytest.raises(PreconditionFailedError):
        store.put_bytes("claim", b"mine", if_absent=True)
    assert bytes(store.read("claim", 0, 4)) == b"mine"
    proxy.add("busy", is_a("PUT", "/other"), times=3)
    store.put_bytes("other", b"mine", if_absent=True)


def test_a_conflict_of_two_conditional_puts_is_tried_again(store: S3Store, proxy: S3Proxy) -> None:
    conflict = b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"
    fault = proxy.add("fail", is_a("PUT", "/claim"), failure=conflict)
    store.put_bytes("claim", b"mine", if_absent=True)
    assert len(fault.done) == 1


def test_no_orphan_is_left_of_uploads_whose_answers_were_lost(
    store: S3Store, proxy: S3Proxy, large: Path, s3: S3Server
) -> None:
    begun = proxy.add("lose", is_a("POST", "uploads"), times=3)
    ended = proxy.add("lose", is_a("POST", "uploadId"), times=2)
    store.put_file("new", large)
    assert (len(begun.done), len(ended.done)) == (3, 2)
    assert uploads(s3) == []
    assert bytes(store.read("new", 0, large.stat().st_size)) == large.read_bytes()


def test_an_upload_that_the_server_forgot_is_begun_anew(
    store: S3Store, proxy: S3Proxy, large: Path, s3: S3Server
) -> None:
    gone = b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>"
    fault = proxy.add("fail", is_a("PUT", "partNumber=2"), failure=gone)
    store.put_file("new", large)
    assert len(fault.done) == 1
    assert uploads(s3) == []
    assert bytes(store.read("new", 0, large.stat().st_size)) == large.read_bytes()


def test_an_upload_that_is_stopped_leaves_nothing(
    store: S3Store, proxy: S3Proxy, large: Path, s3: S3Server
) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        if any("partNumber" in asked for asked in proxy.requests):
            raise StoppedError

    with pytest.raises(StoppedError):
        store.put_file("new", large, stop)
    assert uploads(s3) == []
    assert store.list() == {}


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>InternalError</Code><Message>no writable volumes and no free volumes left</Message></Error>",
        b"<Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum free drive "
        b"threshold. Please delete a few objects to proceed.</Message></Error>",
        b"<Error><Code>InternalError</Code><Message>write: No space left on device</Message></Error>",
    ],
)
def test_a_storage_that_is_full_is_told_at_once_with_its_cure(
    store: S3Store, proxy: S3Proxy, body: bytes
) -> None:
    fault = proxy.add("fail", is_a("PUT"), times=100, failure=body)
    with pytest.raises(QuantizationError, match="the storage is full") as told:
        store.put_bytes("new", b"new")
    assert told.value.category is Category.STORAGE_UNAVAILABLE
    assert "Make room" in told.value.hint
    assert len(fault.done) == 1


def test_a_server_that_says_internal_error_for_ever_is_suspected_to_be_full(
    s3: S3Server, proxy: S3Proxy
) -> None:
    """SeaweedFS answers a full disk so, with no word of why."""
    body = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
    proxy.add("fail", is_a("PUT"), times=100, failure=body)
    store = S3Store("artifacts", "full", OUTPUT, StorageAccess(endpoint=proxy.endpoint), quickly(2))
    with pytest.raises(QuantizationError, match="InternalError") as told:
        store.put_bytes("new", b"new")
    assert "free space" in told.value.hint


def test_an_outage_of_two_seconds_costs_no_attempt(s3: S3Server, tmp_path: Path) -> None:
    run_through_an_outage(s3, tmp_path, 2, 0)
