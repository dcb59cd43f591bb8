"""The probes complain about what a restart may cure, and about nothing else; logs are JSON; metrics count once."""

import asyncio
import io
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.support.cluster_objects import RESULT, child, condition_status, quantization_job

from quantization_api.status import QuantizationJobStatus
from quantization_operator import logs
from quantization_operator.cache import Cache
from quantization_operator.identity import Key, Kind
from quantization_operator.kube import ApiError
from quantization_operator.metrics import PASS_NAMES, LiveCollector, Metrics
from quantization_operator.probes import Health, Verdict, serve
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Listed, Listing, Reader
from quantization_operator.snapshots import ChildJob, QuantizationJob
from quantization_operator.sweep import LOOKED_AT, Sweeper

pytestmark = pytest.mark.unit


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(clock, lambda: 0.0)


def working(clock: Clock) -> Health:
    health = Health(clock, sweep_interval=120)
    health.synced = True
    health.swept("")
    return health


def test_a_working_operator_has_no_complaints(clock: Clock, queue: WorkQueue) -> None:
    assert working(clock).complaints(queue) == []


def test_an_event_loop_that_does_not_turn_is_told(clock: Clock, queue: WorkQueue) -> None:
    health = working(clock)
    clock.time += 31
    assert "event loop" in health.complaints(queue)[0]
    health.beat()
    assert health.complaints(queue) == []


def test_an_idle_cluster_is_no_complaint_but_sweeps_that_fail_are(clock: Clock, queue: WorkQueue) -> None:
    health = working(clock)
    clock.time += 4 * 120
    health.beat()
    assert health.complaints(queue) == []
    clock.time += 1
    assert "could not be listed" in health.complaints(queue)[0]


def test_many_objects_are_swept_less_often(
    clock: Clock, queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    health, sweeps = working(clock), list[float]()
    monkeypatch.setattr("quantization_operator.sweep.OBJECTS_A_SECOND", 10_000)

    class Swept(Sweeper):
        async def sweep(self) -> int:
            sweeps.append(health.sweep_interval)
            if len(sweeps) == 3:
                raise ApiError(0, "cut off")
            if len(sweeps) == 4:
                raise asyncio.CancelledError
            return 400 * len(sweeps)

    health.sweep_interval = 0.01
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Swept(Cache(), queue, Reader(None), health).run(0.01))  # type: ignore[arg-type]
    assert sweeps == [0.01, 0.04, 0.08, 0.01], "what failed is tried again after the plain interval"


def test_a_watch_that_missed_something_is_told_until_it_catches_up(clock: Clock, queue: WorkQueue) -> None:
    health = working(clock)
    clock.time += 20
    health.beat()
    health.swept("1 objects, such as Job default/x")
    assert health.complaints(queue) == ["the watch missed 1 objects, such as Job default/x"]
    assert health.watch_age == 20
    health.swept("")
    assert health.complaints(queue) == []
    assert health.watch_age == 0


def test_a_job_that_waits_for_a_worker_is_told(clock: Clock, queue: WorkQueue) -> None:
    health = working(clock)
    queue.add(Key("a", "1"))
    clock.time += 301
    health.beat()
    assert "waiting for a worker" in health.complaints(queue)[0]


def test_a_lease_of_which_nothing_is_heard_is_told(clock: Clock, queue: WorkQueue) -> None:
    silence = 60.0
    health = Health(clock, sweep_interval=120, lease_silence=lambda: silence)
    assert health.complaints(queue) == []
    silence = 61.0
    assert health.complaints(queue) == ["no answer about the lease for 61 s"]


@pytest.fixture
def served(clock: Clock, queue: WorkQueue) -> Iterator[tuple[Health, str]]:
    health = Health(clock, sweep_interval=120)
    server = serve("127.0.0.1", 0, health, queue, CollectorRegistry())
    yield health, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def code(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_pages_answer_by_health(served: tuple[Health, str], clock: Clock) -> None:
    health, url = served
    assert code(url + "/readyz") == 503
    health.synced = True
    assert [code(url + path) for path in ("/readyz", "/healthz", "/metrics", "/secret")] == [
        200,
        200,
        200,
        404,
    ]
    clock.time += 60
    assert code(url + "/healthz") == 503


def test_the_text_of_a_red_page_is_logged_when_it_changes(
    clock: Clock, queue: WorkQueue, caplog: pytest.LogCaptureFixture
) -> None:
    health = working(clock)
    verdict = Verdict(health, queue)
    caplog.set_level(logging.INFO)
    assert verdict() == (200, "ok")
    for _ in range(3):
        clock.time += 31
        assert verdict()[0] == 503
    assert [r.getMessage() for r in caplog.records] == ["unhealthy: the event loop has not turned for 31 s"]
    health.swept("1 objects, such as Job default/x")
    assert "the watch missed" in verdict()[1]
    health.beat()
    health.swept("")
    assert verdict() == (200, "ok")
    said = [(r.levelname, r.getMessage()) for r in caplog.records[1:]]
    assert said[0][0] == "WARNING"
    assert "the watch missed 1 objects, such as Job default/x" in said[0][1]
    assert said[1:] == [("INFO", "healthy again")]


class Listings:
    """A reader whose listings and objects are as a test says; it counts the listings after the first round."""

    def __init__(self, first: dict[str, int], then: dict[str, int], there: dict[str, Any]) -> None:
        self.first, self.then, self.there = first, then, there
        self.listed = self.looked = 0

    async def listing(self, kind: Kind, _namespace: str | None) -> Listing:
        if kind != "Job":
            return Listing({}, 1000)
        self.listed += 1
        found = self.first if self.listed == 1 else self.then
        key = Key("default", "x")
        return Listing({uid: Listed(key, uid, version) for uid, version in found.items()}, 1000)

    async def snapshot(self, _kind: Kind, _namespace: str, name: str) -> ChildJob | None:
        self.looked += 1
        body = self.there.get(name)
        return ChildJob.of(body) if body else None


def swept(clock: Clock, queue: WorkQueue, reader: Listings, cache: Cache | None = None) -> list[str]:
    health = working(clock)
    sweeper = Sweeper(cache or Cache(), queue, reader, health, grace=0)  # type: ignore[arg-type]
    asyncio.run(sweeper.sweep())
    return health.complaints(queue)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantization_operator.sweep.GRACE_SECONDS_EACH", 0.0)


def test_what_is_deleted_while_it_is_listed_is_nothing_that_was_missed(
    clock: Clock, queue: WorkQueue
) -> None:
    many = {f"job-{number}": 5 for number in range(270)}
    reader = Listings(many, {}, {})
    assert swept(clock, queue, reader) == []
    assert (reader.listed, reader.looked) == (2, 0)


def test_what_is_gone_when_it_is_looked_at_is_nothing_that_was_missed(clock: Clock, queue: WorkQueue) -> None:
    many = {f"job-{number}": 5 for number in range(270)}
    reader = Listings(many, many, {})
    assert swept(clock, queue, reader) == []
    assert reader.looked == LOOKED_AT


def test_what_cannot_be_read_is_nothing_that_was_missed(clock: Clock, queue: WorkQueue) -> None:
    nobodys = child(uid="a", name="a", labels={})
    assert swept(clock, queue, Listings({"a": 5}, {"a": 5}, {"a": nobodys})) == []


def test_what_is_there_and_was_never_told_was_missed(clock: Clock, queue: WorkQueue) -> None:
    body = child(uid="a", name="a", resourceVersion="5")
    assert swept(clock, queue, Listings({"a": 5, "b": 5}, {"a": 5, "b": 5}, {"a": body})) == [
        "the watch missed 2 objects, such as Job default/a"
    ]


def test_what_the_watch_tells_of_in_time_was_not_missed(clock: Clock, queue: WorkQueue) -> None:
    cache = Cache()
    cache.put(ChildJob.of(child(uid="a", name="a", resourceVersion="5")))
    assert swept(clock, queue, Listings({"a": 4}, {"a": 4}, {}), cache) == []


def test_a_log_line_is_json_with_its_context_and_traceback() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("INFO", stream)
        logger = logging.getLogger("quantization_operator.test")
        logger.debug("not shown")
        logging.getLogger("kopf").info("not shown")
        try:
            raise ValueError("x\ny")
        except ValueError:
            logger.exception("failed %d", 1, extra={"job": "a", "other": "dropped"})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["level"], said["message"], said["job"]) == ("error", "failed 1", "a")
    assert "ValueError: x" in said["exception"]
    assert "other" not in said


NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_a_transition_is_counted_once() -> None:
    metrics, qjob = Metrics(), QuantizationJob.of(quantization_job())
    status = QuantizationJobStatus.model_validate
    new = QuantizationJobStatus()
    runs = status(condition_status("Reconciling", "Running"))
    retries = status(condition_status("Reconciling", "Retrying", attempts={"failed": 1, "disrupted": 0}))
    done = status(
        condition_status(
            "Ready", "Succeeded", completionTime="2026-01-01T00:05:00Z", artifact=RESULT.artifact
        )
    )
    for before, after in (
        (new, runs),
        (runs, runs),
        (runs, retries),
        (retries, runs),
        (runs, done),
        (done, done),
    ):
        attempted = after.model_copy(update={"attempts": retries.attempts}) if before is retries else after
        metrics.observe_transition(qjob, before, attempted, NOW)
    assert value(metrics, "quantization_job_queue_seconds_count") == 1
    labels = {"passes": "GptqQuantizer", "outcome": "Succeeded"}
    assert value(metrics, "quantization_job_duration_seconds_count", **labels) == 1
    assert value(metrics, "quantization_job_duration_seconds_sum", **labels) == 300
    assert value(metrics, "quantization_artifact_bytes_total") == 8_000_000


@pytest.mark.parametrize("start", ["0000-01-01T00:00:00Z", "yesterday", "9999-12-31T23:59:59Z"])
def test_a_time_that_somebody_wrote_into_a_status_is_not_counted(start: str) -> None:
    metrics, qjob = Metrics(), QuantizationJob.of(quantization_job())
    after = QuantizationJobStatus.model_validate(
        condition_status("Ready", "Succeeded", completionTime="2026-01-01T00:05:00Z", startTime=start)
    )
    metrics.observe_transition(qjob, QuantizationJobStatus(), after, NOW)
    labels = {"passes": "GptqQuantizer", "outcome": "Succeeded"}
    assert value(metrics, "quantization_job_duration_seconds_count", **labels) == 0


def test_a_label_is_none_that_somebody_wrote_into_a_status() -> None:
    metrics, qjob = Metrics(), QuantizationJob.of(quantization_job(status={"phase": "x" * 200}))
    assert qjob is not None
    assert qjob.phase == ""
    after = QuantizationJobStatus.model_validate(
        condition_status("Ready", "Succeeded", completionTime="2026-01-01T00:05:00Z", passes="x" * 200)
    )
    metrics.observe_transition(qjob, QuantizationJobStatus(), after, NOW)
    labels = {"passes": "other", "outcome": "Succeeded"}
    assert value(metrics, "quantization_job_duration_seconds_count", **labels) == 1
    assert {"GptqQuantizer", "QuaRot"} <= PASS_NAMES


def test_a_reused_result_writes_no_bytes() -> None:
    metrics, qjob = Metrics(), QuantizationJob.of(quantization_job())
    artifact = RESULT.artifact
    assert artifact is not None
    reused = artifact.model_copy(update={"reused_from": artifact.uri})
    after = QuantizationJobStatus.model_validate(condition_status("Ready", "Succeeded", artifact=reused))
    metrics.observe_transition(qjob, QuantizationJobStatus(), after, NOW + timedelta(seconds=1))
    assert value(metrics, "quantization_jobs_reused_total") == 1
    assert value(metrics, "quantization_artifact_bytes_total") == 0


def test_jobs_are_counted_by_phase_and_namespace(queue: WorkQueue) -> None:
    cache, metrics = Cache(), Metrics()
    cache.put(QuantizationJob.of(quantization_job(uid="1", status=condition_status("Ready", "Succeeded"))))
    cache.put(QuantizationJob.of(quantization_job(uid="2", status=condition_status("Ready", "Succeeded"))))
    cache.put(QuantizationJob.of(quantization_job(uid="3")))
    leads = True
    metrics.registry.register(LiveCollector(cache, queue, lambda: 7.0, lambda: leads))
    assert value(metrics, "quantization_is_leader") == 1
    assert value(metrics, "quantization_jobs", phase="Succeeded", namespace="default") == 2
    assert value(metrics, "quantization_jobs", phase="Pending", namespace="default") == 1
    assert value(metrics, "quantization_watch_age_seconds") == 7
    leads = False
    assert value(metrics, "quantization_is_leader") == 0
    assert value(metrics, "quantization_jobs", phase="Succeeded", namespace="default") == 0
