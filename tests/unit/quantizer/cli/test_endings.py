"""How a run ends: every exception has a category and an exit code, and the message fits."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import yaml
from tests.support.manifests import manifest
from tests.support.quantizer_requests import Request

from quantization_api.bounded import Digest
from quantization_api.constants import REQUEST_ENV
from quantization_api.failures import CATALOGUE, Category, ExitCode, QuantizationError
from quantization_api.pod import MAX_RESULT_BYTES, RunResult, StorageAccess
from quantization_api.status import Artifact, MetricResult
from quantizer.cli import delete as cli_delete
from quantizer.cli import logs, parser
from quantizer.cli.asked import asked_for
from quantizer.cli.ending import guarded
from quantizer.cli.signals import Interrupted, Terminated
from quantizer.cli.termination import (
    TERMINATION_ENV,
    categorize,
    failed,
    leave_message,
    termination_path,
)
from quantizer.store.interface import Place
from quantizer.store.location import Location

pytestmark = pytest.mark.unit

DIGEST: Digest = "sha256:" + 64 * "0"


@pytest.mark.parametrize(
    ("error", "category", "code"),
    [
        (QuantizationError(Category.DATA_NOT_FOUND, "gone"), Category.DATA_NOT_FOUND, ExitCode.NOT_FOUND),
        (MemoryError(), Category.HOST_OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
            Category.HOST_OUT_OF_MEMORY,
            ExitCode.OUT_OF_MEMORY,
        ),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            Category.HOST_OUT_OF_MEMORY,
            ExitCode.OUT_OF_MEMORY,
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), Category.GPU_OUT_OF_MEMORY, ExitCode.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "full"), Category.SCRATCH_FULL, ExitCode.CANNOT_CREATE_OUTPUT),
        (Terminated(), Category.DISRUPTED, ExitCode.TERMINATED),
        (Interrupted(), Category.DISRUPTED, ExitCode.INTERRUPTED),
        (RuntimeError("shapes do not match"), Category.INTERNAL, ExitCode.INTERNAL),
        (OSError(errno.EBADF, "what"), Category.INTERNAL, ExitCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_exception_has_its_category_and_exit_code(
    error: BaseException, category: Category, code: ExitCode
) -> None:
    known = categorize(error)
    assert (known.category, known.exit_code) == (category, code)


def test_a_real_allocation_that_fails_is_host_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert categorize(caught.value).category is Category.HOST_OUT_OF_MEMORY


@pytest.mark.parametrize("category", list(Category))
def test_the_longest_failure_fits_a_termination_message(category: Category) -> None:
    message = failed(QuantizationError(category, "ü" * 5000, "€" * 5000)).to_message()
    assert len(message.encode()) <= MAX_RESULT_BYTES
    result = RunResult.model_validate_json(message)
    assert result.failure is not None
    assert result.failure.category == category
    assert result.failure.exit_code == int(CATALOGUE[category].exit_code or ExitCode.INTERNAL)


def test_the_longest_artifact_fits_a_termination_message() -> None:
    result = RunResult(
        recipe=DIGEST,
        artifact=Artifact(
            uri="s3://" + "u" * 1000,
            manifest_digest=DIGEST,
            size_bytes=10**15,
            compression_ratio=3.9999,
            bits_per_weight=4.1561,
            readers=["r" * 256] * 16,
            reused_from="s3://" + "u" * 1000,
        ),
        metrics=[MetricResult(name=63 * "n", input=1 / 3, output=2 / 3) for _ in range(8)],
    )
    message = result.to_message()
    assert len(message.encode()) <= MAX_RESULT_BYTES
    assert RunResult.model_validate_json(message).artifact is not None


def test_the_message_goes_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERMINATION_ENV, str(tmp_path / "message"))
    leave_message(failed(QuantizationError(Category.INTERNAL, "x")), termination_path(in_pod=True))
    assert json.loads((tmp_path / "message").read_text())["failure"]["category"] == "Internal"
    monkeypatch.delenv(TERMINATION_ENV)
    assert str(termination_path(in_pod=True)) == "/dev/termination-log"
    assert termination_path(in_pod=False) is None


def test_a_message_that_cannot_be_written_does_not_hide_the_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave_message(failed(QuantizationError(Category.INTERNAL, "x")), tmp_path / "no" / "message")
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    "arguments", [["run"], ["verify"], ["run", "--no-such-option"], ["fly"], []], ids=" ".join
)
def test_a_wrong_command_line_is_a_usage_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(REQUEST_ENV, raising=False)
    with pytest.raises(SystemExit) as caught:
        parser.main(arguments)
    assert caught.value.code == ExitCode.USAGE
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("request_text", ["no json", "{}", '{"name": 1}'])
def test_a_request_that_is_not_valid_is_an_invalid_workflow(
    request_text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(REQUEST_ENV, request_text)
    monkeypatch.setenv(TERMINATION_ENV, str(tmp_path / "message"))
    assert parser.main(["run"]) == ExitCode.INVALID_WORKFLOW
    result = RunResult.model_validate_json((tmp_path / "message").read_text())
    assert result.failure is not None
    assert result.failure.category is Category.INVALID_WORKFLOW
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["level"] == "error"


def test_a_failure_of_any_text_is_one_short_printable_line() -> None:
    result = failed(
        QuantizationError(Category.DATA_NOT_FOUND, "a\n\x1b[31mb\ud800" + "c" * 10**6, "\0" * 10**6)
    )
    assert result.failure is not None
    assert "\n" not in result.failure.message
    assert result.failure.message.isprintable()
    assert len(result.to_message().encode()) <= MAX_RESULT_BYTES


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("x"),
        UnicodeError("\ud800"),
        type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})("rust\nagain"),
    ],
)
def test_nothing_escapes_a_run(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(*_: object) -> None:
        raise error

    monkeypatch.setattr("quantizer.cli.execution.execute", execute)
    monkeypatch.setenv(REQUEST_ENV, json.dumps(Request(f"file://{tmp_path}/out").document()))
    monkeypatch.setenv(TERMINATION_ENV, str(tmp_path / "message"))
    assert parser.main(["run"]) == ExitCode.INTERNAL
    result = RunResult.model_validate_json((tmp_path / "message").read_text())
    assert result.failure is not None
    assert result.failure.message.startswith(type(error).__name__)


def test_a_message_place_that_is_a_folder_and_a_closed_standard_error_leave_the_exit_code(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "quantizer", "run", "-f", str(tmp_path / "missing.yaml")]
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&- >&-', "sh", *command],
        env={**os.environ, TERMINATION_ENV: str(tmp_path)},
        check=False,
        timeout=120,
    )
    assert ended.returncode == ExitCode.NOT_FOUND


def test_a_very_long_message_is_shown_in_a_moment(capsys: pytest.CaptureFixture[str]) -> None:
    def action(*_: object) -> None:
        raise QuantizationError(Category.MODEL_UNSUPPORTED, "word " * 10**6)

    assert guarded(action) == ExitCode.DATA
    assert len(capsys.readouterr().err) < 20_000


@pytest.mark.parametrize(
    "formatter", [logs.JsonFormatter(), logs.PlainFormatter("%(levelname)s %(message)s")]
)
def test_a_log_line_gives_a_terminal_nothing_to_obey(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a \x1b[31mred\x9b name \udcff", None, None)
    line = formatter.format(record)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    assert "red" in line
    line.encode()


def test_nor_does_a_line_that_a_library_writes_by_a_handler_of_its_own(
    restored_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(as_json=False)
    library = logging.getLogger("a-library")
    library.addHandler(logging.StreamHandler(sys.stderr))
    library.propagate = False
    library.warning("a %s", "\x1b[31mred")
    assert capsys.readouterr().err == "a \\x1b[31mred\n"


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """What a command sets up for its process ends with the test."""
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    handlers, level = root.handlers[:], root.level
    yield
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def test_a_removal_is_bound_by_what_binds_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is opened: if an option were lost, a test must not reach for such an address."""
    seen: list[StorageAccess] = []

    def opened(_: Location, __: Place, access: StorageAccess) -> NoReturn:
        seen.append(access)
        raise QuantizationError(Category.STORAGE_UNAVAILABLE, "not opened")

    monkeypatch.setattr(cli_delete, "open_store", opened)
    place = ["delete", "s3://artifacts/x", "--endpoint", "http://169.254.169.254"]
    assert parser.main([*place, "--patience", "7", "--refuse-link-local"]) == ExitCode.TRY_AGAIN
    assert parser.main(place) == ExitCode.TRY_AGAIN
    told = [(access.patience_seconds, access.refuse_link_local) for access in seen]
    assert told == [(7, True), (300, False)]


@pytest.mark.parametrize(
    ("command", "target"),
    [("verify", "quantizer.run.verification.verify"), ("inspect", "quantizer.run.inspection.inspect")],
)
def test_who_looks_says_how_long_to_wait(command: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StorageAccess] = []

    def looked(_: str, access: StorageAccess, *__: object) -> NoReturn:
        seen.append(access)
        raise QuantizationError(Category.STORAGE_UNAVAILABLE, "not opened")

    monkeypatch.setattr(target, looked)
    for patience in (["--patience", "0"], []):
        assert parser.main([command, "s3://artifacts/x", *patience]) == ExitCode.TRY_AGAIN
    assert [access.patience_seconds for access in seen] == [0, 300]


@pytest.mark.parametrize(("options", "expected"), [(["--patience", "5"], 5), ([], 40)])
def test_the_command_lines_patience_replaces_the_manifests(
    options: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(manifest(("storage.patienceSeconds", 40))))
    monkeypatch.setattr("quantizer.cli.asked.check_paths", lambda _: None)
    request = asked_for(parser.parser().parse_args(["run", "-f", str(path), *options]))
    assert request.storage.patience_seconds == expected


@pytest.mark.parametrize("seconds", ["-1", "1.5", "86401", "soon"])
def test_a_patience_that_is_no_number_of_seconds_is_a_usage_error(seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.main(["delete", "s3://artifacts/x", f"--patience={seconds}"])
    assert ended.value.code == ExitCode.USAGE
