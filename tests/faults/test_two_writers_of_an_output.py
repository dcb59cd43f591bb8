"""Several writers of one output on a real S3 server and in a directory: at the end one whole artifact, or none."""

import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.s3 import S3Server
from tests.support.writer_process import writer
from tests.support.writers import digest_of, lacks, play, unlisted

from quantization_api.failures import ExitCode
from quantization_api.pod import StorageAccess
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT, Store
from quantizer.store.location import Location, open_store

SMALL, SMALL_IN_A_DIRECTORY, IN_A_DIRECTORY = range(6), 20, 200
WHOLE = [range(first, first + 20) for first in range(6, 206, 20)]
STOPS_SMALL, STOPS = 4, 60
LIMIT_SECONDS = 60.0
LIVES = {"s3": 0.9, "file": 0.12}
"""Seconds that a writer alone takes, and a little more."""
BUCKET = "artifacts"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        server.client().create_bucket(Bucket=BUCKET)
        for key, value in server.environment().items():
            patch.setenv(key, value)
        yield server


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings of faults that were asked for are no news."""
    caplog.set_level(logging.CRITICAL)


def opened(s3: S3Server, name: str) -> Store:
    access = StorageAccess(endpoint=s3.endpoint, region="us-east-1")
    return open_store(Location.parse(f"s3://{BUCKET}/{name}"), OUTPUT, access)


def played(s3: S3Server, seeds: range) -> set[str]:
    """Plays schedules on S3; the faults that were there."""
    faults: set[str] = set()
    for seed in seeds:
        faults |= play(seed, opened(s3, f"schedule-{seed}")).faults
    return faults


@pytest.mark.integration
@pytest.mark.faults
@pytest.mark.nightly
def test_six_schedules_on_s3_leave_a_whole_artifact_or_none(s3: S3Server) -> None:
    assert played(s3, SMALL)


@pytest.mark.faults
@pytest.mark.parametrize("seeds", WHOLE, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_two_hundred_schedules_on_s3_leave_a_whole_artifact_or_none(s3: S3Server, seeds: range) -> None:
    assert len(played(s3, seeds)) > 5


@pytest.mark.faults
@pytest.mark.parametrize(
    "count",
    [pytest.param(SMALL_IN_A_DIRECTORY, marks=pytest.mark.integration), IN_A_DIRECTORY],
)
def test_schedules_in_a_directory_leave_a_whole_artifact_or_none(tmp_path: Path, count: int) -> None:
    for seed in range(count):
        play(seed, DirectoryStore(tmp_path / str(seed), OUTPUT))


def disturbed(chance: random.Random, uri: str, endpoint: str | None, store: Store) -> list[int | None]:
    """Two processes of one job: the first is stopped or killed somewhere, and goes on when the second is at work."""
    first = writer(uri, endpoint, "one", 1)
    first.join(chance.uniform(0, LIVES[uri.partition(":")[0]]))
    assert first.pid is not None
    if first.is_alive():
        os.kill(first.pid, chance.choice((signal.SIGSTOP, signal.SIGSTOP, signal.SIGKILL)))
    second = writer(uri, endpoint, chance.choice(("one", "two")), 2)
    second.join(chance.choice((0.1, 0.3, 0.7, LIMIT_SECONDS)))
    if first.is_alive():
        os.kill(first.pid, signal.SIGCONT)
    until, published = time.monotonic() + LIMIT_SECONDS, ""
    while first.is_alive() or second.is_alive():
        assert time.monotonic() < until
        assert lacks(store) == []
        now = digest_of(store)
        assert now in ("", published) or not published, "what was published is gone"
        published = now or published
        first.join(0.02)
    return [first.exitcode, second.exitcode]


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(
            number,
            marks=[pytest.mark.faults, *([pytest.mark.integration] if number < STOPS_SMALL else [])],
        )
        for number in range(STOPS)
    ],
)
def test_a_process_that_is_stopped_and_continued_destroys_nothing(
    s3: S3Server, tmp_path: Path, number: int
) -> None:
    chance = random.Random(number)
    on_s3 = number % 2 == 0
    uri = f"s3://{BUCKET}/stopped-{number}" if on_s3 else f"file://{tmp_path / 'output'}"
    endpoint = s3.endpoint if on_s3 else None
    store = open_store(Location.parse(uri), OUTPUT, StorageAccess(endpoint=endpoint, region="us-east-1"))
    codes = disturbed(chance, uri, endpoint, store)
    assert set(codes) <= {0, -signal.SIGKILL, int(ExitCode.CANNOT_CREATE_OUTPUT), int(ExitCode.TRY_AGAIN)}
    last = writer(uri, endpoint, "one", 3)
    last.join(LIMIT_SECONDS)
    assert last.exitcode == 0, codes
    assert lacks(store) == []
    assert digest_of(store)
    assert [key for key in unlisted(store) if not key.startswith(".state/")] == []
