"""Whatever reading an input raises becomes the input's category; what is not about the input passes."""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from pydantic import TypeAdapter

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.bounded_json import in_utf8, read_object
from quantizer.boundary.reading import reading
from quantizer.boundary.yaml_file import yaml_documents
from quantizer.calibration.apart import STEP_SECONDS, Step, in_a_child
from quantizer.cli.signals import Terminated

pytestmark = pytest.mark.unit
WHAT = "config.json"
UNSUPPORTED = Category.MODEL_UNSUPPORTED


def deeper() -> None:
    deeper()


def panic() -> None:
    class PanicException(BaseException):
        __module__ = "pyo3_runtime"

    raise PanicException("called `Option::unwrap()` on a `None` value")


READERS: dict[str, tuple[Callable[[], object], str]] = {
    "recursion": (deeper, "it is nested too deeply"),
    "a panic of Rust, which is no Exception": (panic, "unwrap"),
    "pydantic's error": (lambda: TypeAdapter(int).validate_python("x"), "valid integer"),
    "a name alone": (lambda: {}["rope"], "KeyError 'rope'"),
    "not UTF-8": (lambda: b"\xff".decode(), "it is not UTF-8 text: byte 0 is 0xff"),
    "too large for C": (lambda: time.sleep(1e300), "timestamp"),
    "no text at all": (lambda: tokenizers.Tokenizer.from_str("x"), "expected value"),
    "a long message": (lambda: int("9" * 10**5), "digits"),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_reading_raises_is_the_inputs(name: str) -> None:
    reader, words = READERS[name]
    with pytest.raises(QuantizationError) as caught, reading(UNSUPPORTED, WHAT):
        reader()
    assert caught.value.category is UNSUPPORTED
    assert caught.value.message.startswith("config.json cannot be used: ")
    assert words in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    "error",
    [
        QuantizationError(Category.ACCESS_DENIED, "no"),
        MemoryError(),
        OSError(errno.ENOSPC, "full"),
        KeyboardInterrupt(),
        SystemExit(3),
        Terminated(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_about_the_input_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading(UNSUPPORTED, WHAT):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[1]", "it is a list, not a JSON object"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested"),
        (b'{"a": ' + b"[" * 100_000, "nested"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'{"a": "\xff"}', "not UTF-8 text: byte 7 is 0xff"),
        (b"\xff\xfe{\x00\x00\xd8", "not UTF-16-LE text"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"{" + b" " * 2000 + b"}", "at most 1,000 are allowed"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_json_that_is_no_plain_object_is_refused_with_the_reason(data: bytes, words: str) -> None:
    limit = 1000 if words.startswith("at most") else 10**6
    with pytest.raises(QuantizationError, match=words):
        read_object(data, UNSUPPORTED, WHAT, limit=limit)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_json_is_read_in_every_encoding_that_its_first_bytes_tell(encoding: str) -> None:
    data = json.dumps({"ä": "模"}, ensure_ascii=False).encode(encoding)
    assert read_object(data, UNSUPPORTED, WHAT, limit=100) == {"ä": "模"}
    assert list(yaml_documents(data)) == [{"ä": "模"}]
    assert in_utf8(data) == json.dumps({"ä": "模"}, ensure_ascii=False).encode()
    assert in_utf8(b"\xff\xfe\x00\xd8") == b"\xff\xfe\x00\xd8"  # no text at all


def test_a_yaml_bomb_is_refused_before_it_is_built() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(ValueError, match="more than 100 aliases"):
        list(yaml_documents("\n".join(lines).encode()))
    with pytest.raises(ValueError, match="more than 100 levels deep"):
        list(yaml_documents(b"- " * 2000))


ROOM = 200_000_000


def forever(_: Step) -> bytes:
    while True:
        pass


def allocate(_: Step) -> bytes:
    return bytes(10**9) and b""


def refuse(_: Step) -> bytes:
    raise QuantizationError(Category.DATA_INSUFFICIENT, "too short", "more text")


def ends(work: Callable[[Step], bytes]) -> QuantizationError:
    with pytest.raises(QuantizationError) as caught:
        in_a_child(work, ROOM, UNSUPPORTED, "the tokenizer", "copy it")
    return caught.value


def test_work_in_a_child_gives_its_result_and_its_errors() -> None:
    assert in_a_child(lambda _: b"ids", ROOM, UNSUPPORTED, "the tokenizer", "copy it") == b"ids"
    error = ends(refuse)
    assert (error.category, error.message, error.hint) == (
        Category.DATA_INSUFFICIENT,
        "too short",
        "more text",
    )


def test_what_the_work_raises_is_the_inputs() -> None:
    error = ends(lambda _: b"x".decode("no-such-codec").encode())
    assert error.category is UNSUPPORTED
    assert "unknown encoding" in error.message


def test_work_that_takes_too_much_memory_is_ended() -> None:
    error = ends(allocate)
    assert error.category is UNSUPPORTED
    assert "more than 200 MB of memory" in error.message


def test_work_that_ends_with_a_signal_is_reported() -> None:
    assert "exited with -11" in ends(lambda _: os.kill(os.getpid(), signal.SIGSEGV) or b"").message
    killed = ends(lambda _: os.kill(os.getpid(), signal.SIGKILL) or b"")
    assert killed.category is Category.HOST_OUT_OF_MEMORY


def test_a_step_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert STEP_SECONDS <= 10
    monkeypatch.setattr("quantizer.calibration.apart.STEP_SECONDS", 1)
    assert "CPU time" in ends(forever).message


def children() -> set[str]:
    """Processes of this one that run, or that nobody waited for."""
    return {
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    }


def test_a_child_leaves_no_process_behind(tmp_path: Path) -> None:
    others = children()  # of tests before, which stay until the worker ends
    in_a_child(lambda _: b"", ROOM, UNSUPPORTED, "the tokenizer", "copy it")
    assert children() == others
