"""A search by two workers that share only an S3 bucket, one of which is killed: nothing is lost or done twice."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.choice import mostly_nightly
from tests.support.engine import CPU, ignore_progress, save_tiny_reader
from tests.support.quantizer_requests import Ended, Request, end, run_here, start
from tests.support.s3 import S3Server
from tests.support.searches import dimension

from quantization_api.manifest import Manifest, TrialRecord
from quantization_api.pod import WORKER_ENV, StorageAccess
from quantizer.run.verification import verify

pytestmark = pytest.mark.integration

SMALL = (
    dimension("bits", 4, 8),
    dimension("group_size", 16, 32),
    dimension("desc_act", "false", "true"),
)
LARGE = (
    dimension("bits", 3, 4, 8),
    dimension("group_size", 16, 32),
    dimension("damp_percent", "0.01", "0.1"),
    dimension("desc_act", "false", "true"),
)
TRIAL = re.compile(r'trial (\d+): [^"]* in ')
"""The line of a point that has ended; that of one that begins has no time."""
SECONDS = 240
Grid = tuple[dict[str, Any], ...]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.client().create_bucket(Bucket="artifacts")
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_reader(folder)
    return folder


def request(model: Path, name: str, s3: S3Server, uid: str, grid: Grid) -> Request:
    return Request(
        f"s3://artifacts/{name}",
        model=f"file://{model}",
        endpoint=s3.endpoint,
        uid=uid,
        samples=4,
        pass_options={"name": "q", "checkpoint_format": "gptq"},
        search={"search_space": list(grid), "stop_early": False},
        metrics=[{"name": "kl", "type": "kl_divergence", "data_config": "held_out"}],
    )


def keys(s3: S3Server, prefix: str) -> list[str]:
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket="artifacts", Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def records(s3: S3Server, name: str) -> list[TrialRecord]:
    """What the workers wrote of points, each once."""
    found = [key for key in keys(s3, f"{name}/.trials/") if re.search(r"/[0-9a-f]{64}\.json$", key)]
    bodies = [s3.client().get_object(Bucket="artifacts", Key=key)["Body"].read() for key in found]
    return [TrialRecord.model_validate(json.loads(body)["trial"]) for body in bodies]


def wait_for(s3: S3Server, name: str, worker: str, count: int) -> None:
    """Until a worker has written some records and has begun another point."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        mine = [record for record in records(s3, name) if (record.worker or "").endswith(worker)]
        claims = [key for key in keys(s3, f"{name}/.trials/") if key.endswith("claim.json")]
        if len(mine) >= count and claims:
            return
        time.sleep(0.2)
    raise AssertionError(f"worker {worker} wrote no {count} records in {SECONDS} s")


def published(s3: S3Server, name: str) -> Manifest:
    body = s3.client().get_object(Bucket="artifacts", Key=f"{name}/manifest.json")["Body"].read()
    return Manifest.model_validate_json(body)


def front(manifest: Manifest) -> list[tuple[str, float | None, int | None]]:
    return [
        (str(trial.parameters), trial.metrics[0].output, trial.size_bytes)
        for trial in manifest.trials
        if trial.on_front
    ]


def said(workers: list[Ended]) -> list[int]:
    """The numbers of the points that workers say to have ended."""
    return sorted(int(number) for worker in workers for number in TRIAL.findall(worker.log))


@pytest.mark.parametrize(("grid", "points"), mostly_nightly([(SMALL, 8), (LARGE, 24)], [(SMALL, 8)]))
def test_two_workers_of_which_one_is_killed_find_the_front_of_an_exhaustive_search(
    grid: Grid, points: int, model: Path, s3: S3Server, tmp_path: Path
) -> None:
    killed_of, alone_of = f"killed-{points}", f"alone-{points}"
    asked = request(model, killed_of, s3, "shared", grid)
    workers = [start(asked, tmp_path / n, {**s3.environment(), WORKER_ENV: n}) for n in ("0", "1")]
    wait_for(s3, killed_of, "/1", 2)
    workers[1].send_signal(signal.SIGKILL)
    killed = end(workers[1], tmp_path / "1")
    assert killed.code == -signal.SIGKILL
    again = start(asked, tmp_path / "again", {**s3.environment(), WORKER_ENV: "1"})
    ended = [end(workers[0], tmp_path / "0"), end(again, tmp_path / "again")]
    assert [one.code for one in ended] == [0, 0], ended[0].log + ended[1].log

    manifest = published(s3, killed_of)
    ended_points = said([killed, *ended])
    assert len(set(ended_points)) == len(ended_points)  # none twice
    written = records(s3, killed_of)
    assert len(written) == points
    assert {record.worker for record in written} == {"shared/0", "shared/1"}
    artifacts = [one.result.artifact for one in ended]
    assert artifacts[0] == artifacts[1]
    assert artifacts[0] is not None
    assert artifacts[0].reused_from is None
    assert ended[0].result.trials == ended[1].result.trials
    access = StorageAccess(endpoint=s3.endpoint, region="us-east-1")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        verify(f"s3://artifacts/{killed_of}", access, CPU, tmp_path, ignore_progress)

    alone = run_here(request(model, alone_of, s3, "alone", grid), tmp_path / "alone", s3)
    assert alone.code == 0, alone.log
    assert front(manifest) == front(published(s3, alone_of))
    assert [trial.best for trial in manifest.trials] == [
        trial.best for trial in published(s3, alone_of).trials
    ]
