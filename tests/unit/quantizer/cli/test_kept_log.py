"""The end of a pod's log is kept beside the output however the run ends, without secrets, and changes no end."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.quantizer_requests import Request, environment, run_here, start

from quantization_api.constants import REQUEST_ENV
from quantization_api.failures import Category, ExitCode, QuantizationError
from quantizer.cli import parser

pytestmark = pytest.mark.unit

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
LIMIT = 64 * 1024
SAY = logging.getLogger("quantizer.test")


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    return Request(f"file://{tmp_path}/output")


@pytest.fixture
def runs(asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run in a pod that says something, then fails; its log as it is kept."""

    def run(say: Callable[[], None], error: BaseException, where: str = "5d3a.jsonl", **extra: str) -> Path:
        def execute(*_: object) -> None:
            say()
            raise error

        monkeypatch.setattr("quantizer.cli.execution.execute", execute)
        run_here(asked, tmp_path / "scratch", **extra)
        return tmp_path / "output/.logs" / where

    return run


def messages(kept: Path) -> list[str]:
    return [json.loads(line)["message"] for line in kept.read_text().splitlines()]


def test_a_run_that_fails_leaves_its_log(runs: Callable[..., Path]) -> None:
    error = QuantizationError(Category.DATA_NOT_FOUND, "the text is gone")
    said = messages(runs(lambda: SAY.info("layer 3"), error))
    assert said[0] == "layer 3"
    assert "DataNotFound: the text is gone" in said[1]


def test_each_worker_of_a_search_leaves_its_own(runs: Callable[..., Path]) -> None:
    error = QuantizationError(Category.DATA_NOT_FOUND, "gone")
    assert runs(lambda: None, error, "5d3a/1.jsonl", JOB_COMPLETION_INDEX="1").exists()


def test_the_pod_that_wrote_it_is_named(runs: Callable[..., Path]) -> None:
    kept = runs(lambda: None, QuantizationError(Category.DATA_NOT_FOUND, "gone"), HOSTNAME="job-abc-x7")
    assert messages(kept)[-1] == "end of the log of job-abc-x7"


def test_it_is_the_end_of_a_long_log_in_whole_lines(runs: Callable[..., Path]) -> None:
    def say() -> None:
        for number in range(2000):
            SAY.info("line %d %s", number, "x" * 100)
        SAY.info("y" * 2 * LIMIT)
        SAY.info("last")

    kept = runs(say, QuantizationError(Category.DATA_NOT_FOUND, "gone"))
    assert kept.stat().st_size <= LIMIT
    assert messages(kept)[0] == "last"


def test_no_secret_is_kept(runs: Callable[..., Path]) -> None:
    def say() -> None:
        SAY.info('asked with password="%s"', SECRET)
        SAY.info("plain %s and %s", "hunter2-hunter2", "a%2Fb%2Bcdefghijk")
        SAY.error("failed", exc_info=ValueError("hunter2-hunter2"))

    kept = runs(
        say,
        QuantizationError(Category.ACCESS_DENIED, f"https://me:{SECRET}@proxy"),
        AWS_SECRET_ACCESS_KEY="hunter2-hunter2",
        HF_TOKEN="a/b+cdefghijk",
    ).read_text()
    for secret in (SECRET, "hunter2-hunter2", "a%2Fb%2Bcdefghijk"):
        assert secret not in kept
    assert "proxy" in kept


@pytest.mark.parametrize(
    "category", [Category.ARTIFACT_CONFLICT, Category.INVALID_WORKFLOW], ids=lambda each: each.value
)
def test_nothing_is_written_where_the_output_is_not_the_jobs(
    runs: Callable[..., Path], category: Category
) -> None:
    kept = runs(lambda: None, QuantizationError(category, "not yours"))
    assert not kept.parent.parent.exists()


def test_a_storage_that_is_away_changes_no_end(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.output, asked.endpoint = "s3://artifacts/x", "http://127.0.0.1:9"

    def execute(*_: object) -> None:
        raise QuantizationError(Category.DATA_NOT_FOUND, "the text is gone")

    monkeypatch.setattr("quantizer.cli.execution.execute", execute)
    began = time.monotonic()
    ended = run_here(asked, tmp_path, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY=SECRET)
    assert time.monotonic() - began < 10
    assert ended.code == ExitCode.NOT_FOUND
    assert "the log is not kept" in ended.log


def test_a_storage_that_never_answers_is_left(
    runs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizer.cli.kept_log.LIMIT_SECONDS", 0.1)
    monkeypatch.setattr("quantizer.cli.kept_log.open_store", lambda *_: time.sleep(30))
    began = time.monotonic()
    runs(lambda: None, QuantizationError(Category.DATA_NOT_FOUND, "gone"))
    assert time.monotonic() - began < 5


def test_a_run_that_is_stopped_leaves_its_log(asked: Request, tmp_path: Path) -> None:
    asked.metrics = []
    process = start(asked, tmp_path / "scratch", {})
    kept, claim = tmp_path / "output/.logs/5d3a.jsonl", tmp_path / "output/.state/claim.json"
    deadline = time.monotonic() + 120
    while not claim.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.TERMINATED
    assert "stopped by SIGTERM" in kept.read_text()


def test_a_run_on_a_laptop_keeps_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quantizer", "run", "-f", str(tmp_path / "missing.yaml")]
    variables = environment(Request(f"file://{tmp_path}/output"), tmp_path / "message", {})
    del variables[REQUEST_ENV]
    subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=False, timeout=120)
    assert not (tmp_path / "output").exists()


def test_logs_are_printed_of_one_job_or_of_all(
    runs: Callable[..., Path], asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    error = QuantizationError(Category.DATA_NOT_FOUND, "gone")
    runs(lambda: SAY.info("of the job"), error)
    asked.uid = "another"
    runs(lambda: SAY.info("of another"), error)
    capsys.readouterr()
    assert parser.main(["logs", "--uid=5d3a", asked.output]) == 0
    one = capsys.readouterr().out
    assert "of the job" in one
    assert "of another" not in one
    assert parser.main(["logs", asked.output]) == 0
    both = capsys.readouterr().out
    assert "==> 5d3a <==" in both
    assert "==> another <==" in both
    assert parser.main(["logs", "--uid=nobody", asked.output]) == ExitCode.NOT_FOUND
    assert "no log is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], set()),
        (["--uid=5d3a"], {"another.jsonl"}),
        (["--recipe=sha256:0"], {"5d3a.jsonl", "another.jsonl"}),
    ],
    ids=["all", "of a job", "of a recipe that is not there"],
)
def test_a_log_goes_with_the_rest_of_its_job(
    runs: Callable[..., Path], asked: Request, options: list[str], left: set[str]
) -> None:
    error = QuantizationError(Category.DATA_NOT_FOUND, "gone")
    runs(lambda: None, error)
    asked.uid = "another"
    folder = runs(lambda: None, error, "another.jsonl").parent
    assert parser.main(["delete", *options, asked.output]) == 0
    assert {path.name for path in folder.glob("*")} == left


def test_what_is_printed_gives_a_terminal_nothing_to_obey(
    asked: Request, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    kept = tmp_path / "output/.logs/5d3a.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"\x1b[31mred\xff\n")
    assert parser.main(["logs", asked.output]) == 0
    assert capsys.readouterr().out == "\\x1b[31mred\\xff\n"
