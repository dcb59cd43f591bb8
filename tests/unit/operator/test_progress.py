"""RunProgress is asked of running pods only, and a pod that answers nonsense does no harm."""

import asyncio
import http.server
import ipaddress
import itertools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import aiohttp
import pytest
from tests.support.cluster_objects import (
    JOB_UID,
    UID,
    condition_status,
    controlled_by,
    quantization_job,
    running,
    terminated,
    waiting,
)
from tests.support.model_operator import StillLoop

from quantization_api.pod import RunProgress
from quantization_api.status import Trials
from quantization_operator import progress
from quantization_operator.cache import Cache, Key
from quantization_operator.progress import (
    AT_ONCE,
    LARGEST_ANSWER,
    Poller,
    fetch,
    merged,
    no_less,
    read_progress,
    targets,
)
from quantization_operator.queue import WorkQueue
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QJOB_UID_LABEL, ChildPod, QuantizationJob

pytestmark = pytest.mark.unit

ADDRESS = str(
    ipaddress.IPv4Address("127.83.0.1") + os.getpid() % 2**16
)  # the port is given, so one for each process


class Page(http.server.BaseHTTPRequestHandler):
    """A pod's page; what it answers is set by the test."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"{}")

    def do_GET(self) -> None:
        code, body = Page.answer
        self.send_response(code)
        self.send_header("Location", f"http://{ADDRESS}:8080/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def pod_page() -> Iterator[type[Page]]:
    server = http.server.ThreadingHTTPServer((ADDRESS, 8080), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Page
    server.shutdown()
    server.server_close()


def fetched(address: str = ADDRESS) -> RunProgress | str | None:
    async def run() -> RunProgress | str | None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            return await fetch(session, address)

    return asyncio.run(run())


def test_a_valid_answer_is_taken(pod_page: type[Page]) -> None:
    pod_page.answer = (
        200,
        b'{"percent": 12, "stage": "quantize", "layer": 1, "layers": 6, "etaSeconds": 80}',
    )
    assert fetched() == RunProgress(percent=12, stage="quantize", layer=1, layers=6, eta_seconds=80)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b""),
        (200, b"<html>"),
        (200, b'{"percent": 400}'),
        (200, b'{"percent": 1, "stage": "' + b"x" * LARGEST_ANSWER + b'"}'),
        (302, b'{"percent": 1}'),
        (500, b'{"percent": 1}'),
    ],
    ids=["empty", "html", "out of range", "too large", "redirect", "error"],
)
def test_anything_else_is_not(pod_page: type[Page], answer: tuple[int, bytes]) -> None:
    pod_page.answer = answer
    assert not isinstance(fetched(), RunProgress)


def test_a_pod_that_does_not_answer_is_no_error() -> None:
    assert fetched("127.83.17.99") is None


def cache_with(pod: ChildPod, status: dict[str, object] | None = None) -> Cache:
    cache = Cache()
    cache.put(QuantizationJob.of(quantization_job(status=status or {"jobUid": JOB_UID})))
    cache.put(pod)
    return cache


def test_only_running_pods_of_unfinished_jobs_are_asked() -> None:
    assert [target.addresses for target in targets(cache_with(ChildPod.of(running())))] == [["10.0.0.7"]]
    for pod in (
        waiting("ContainerCreating"),
        terminated(0),
        running(deletionTimestamp="2026-01-01T00:00:00Z"),
    ):
        assert targets(cache_with(ChildPod.of(pod))) == []
    assert targets(cache_with(ChildPod.of(running()), condition_status("Stalled", "Internal"))) == []


def test_all_running_workers_are_asked() -> None:
    cache = cache_with(ChildPod.of(running(name="a", status={"podIP": "10.0.0.1"})))
    cache.put(ChildPod.of(running(name="b", status={"podIP": "10.0.0.2"})))
    cache.put(ChildPod.of(waiting("ContainerCreating", name="c", status={"podIP": "10.0.0.3"})))
    (target,) = targets(cache)
    assert target.addresses == ["10.0.0.1", "10.0.0.2"]


def told(done: int, percent: int, **more: Any) -> RunProgress:
    return RunProgress(percent=percent, search=Trials(done=done, total=24, best=f"{done}"), **more)


def test_of_several_answers_the_one_that_is_furthest_speaks_for_all() -> None:
    one, other = (
        told(3, 20, stage="read", eta_seconds=50, notice="vLLM refuses it"),
        told(5, 18, stage="quantize", eta_seconds=70),
    )
    expected = told(5, 20, stage="quantize", eta_seconds=50, notice="vLLM refuses it")
    assert merged([one, other]) == merged([other, one]) == expected
    assert merged([one]) == one
    assert merged([]) is None


def test_points_that_have_ended_are_not_forgotten_with_the_worker_that_told_of_them() -> None:
    before, less, more = told(5, 20), told(3, 21), told(6, 21)
    kept = before.model_copy(update={"percent": 21})
    assert no_less(less, before) == kept
    assert no_less(more, before) == more
    assert no_less(less, None) == less
    assert no_less(RunProgress(percent=1), before) == RunProgress(percent=1)


def test_a_round_ends_with_its_slowest_worker_and_what_does_not_answer_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"10.0.0.1": None, "10.0.0.2": told(2, 10), "10.0.0.3": "no progress", "10.0.0.4": told(1, 5)}
    cache = Cache()
    cache.put(QuantizationJob.of(quantization_job(status={"jobUid": JOB_UID})))
    for name, address in zip("abcd", answers, strict=True):
        cache.put(ChildPod.of(running(name=name, status={"podIP": address})))

    async def answer(_session: aiohttp.ClientSession, address: str) -> RunProgress | str | None:
        return answers[address]

    monkeypatch.setattr(progress, "fetch", answer)
    (target,) = targets(cache)

    async def run() -> None:
        poller = Poller(cache, WorkQueue(time.monotonic, lambda: 0.0), interval=0.0, per_second=1000)
        for address in target.addresses:
            assert target.record.progress is None
            await poller._slots.acquire()
            await poller._poll(None, target, address)  # type: ignore[arg-type]

    asyncio.run(run())
    assert target.record.progress == told(2, 10)


def test_the_best_point_is_printable() -> None:
    seen = read_progress(b'{"search": {"done": 1, "total": 2, "best": "a\\nb\\u001b[31m"}}')
    assert seen == RunProgress(search=Trials(done=1, total=2, best="a | b"))


FORGED = {
    "of another Job": {"ownerReferences": controlled_by("Job", "x", "another")},
    "of a Job that does not control it": {
        "ownerReferences": [{"uid": JOB_UID, "kind": "Job", "apiVersion": "batch/v1"}]
    },
    "of nothing": {"ownerReferences": []},
    "in another namespace": {"namespace": "evil"},
}


@pytest.mark.parametrize("metadata", FORGED.values(), ids=FORGED)
def test_a_pod_that_only_says_that_it_is_the_jobs_is_not_asked(metadata: dict[str, Any]) -> None:
    cache = cache_with(ChildPod.of(running(**metadata)))
    assert targets(cache) == []


@pytest.mark.parametrize(
    "ip", ["169.254.169.254", "fe80::1", "10.0.0.7/../x", "0.0.0.0", "evil.example", "x" * 300]
)
def test_an_address_that_is_no_pods_is_not_asked(ip: str) -> None:
    assert targets(cache_with(ChildPod.of(running(status={"podIP": ip})))) == []


@pytest.mark.parametrize(
    "told",
    [
        b'{"layer": %d}' % 10**30,
        b'{"etaSeconds": 1e999}',
        b'{"percent": NaN}',
        b'{"stage": "\\ud800"}',
        b"[" * 9000,
        b"\xff",
    ],
    ids=["huge", "infinite", "not a number", "surrogate", "deep", "no text"],
)
def test_progress_out_of_its_range_is_refused_as_a_whole_and_says_why(told: bytes) -> None:
    said = read_progress(told)
    assert isinstance(said, str)
    assert said.isprintable()


def test_the_stage_is_printable_and_short() -> None:
    seen = read_progress(b'{"percent": 1, "stage": "FORGED\\nline2 \\u001b[31mred\\u0000"}')
    assert seen == RunProgress(percent=1, stage="FORGED | line2 red")


def test_that_progress_is_refused_is_logged_once(
    pod_page: type[Page], caplog: pytest.LogCaptureFixture
) -> None:
    pod_page.answer = (200, b'{"layer": -1}')
    cache = cache_with(ChildPod.of(running(status={"podIP": ADDRESS})))

    async def run() -> None:
        queue = WorkQueue(time.monotonic, lambda: 0.0)
        poller = Poller(cache, queue, interval=0.0, per_second=1000)
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                (target,) = targets(cache)
                await poller._slots.acquire()
                await poller._poll(session, target, *target.addresses)

    asyncio.run(run())
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_news_wake_the_job_and_no_news_do_not(pod_page: type[Page]) -> None:
    pod_page.answer = (200, b'{"percent": 12}')
    cache = cache_with(ChildPod.of(running(status={"podIP": ADDRESS})))

    async def run() -> None:
        queue = WorkQueue(time.monotonic, lambda: 0.0)
        poller = Poller(cache, queue, interval=0.02, per_second=1000)
        task = asyncio.create_task(poller.run(time.monotonic))
        async with asyncio.timeout(10):
            assert await queue.get() == Key("default", UID)
            record = cache.record(Key("default", UID))
            assert record is not None
            assert record.progress == RunProgress(percent=12)
            queue.done(Key("default", UID))
            pod_page.answer = (200, b'{"percent": 13}')
            assert await queue.get() == Key("default", UID)
            assert record.progress == RunProgress(percent=13)
        task.cancel()

    asyncio.run(run())


def many_running(count: int) -> Cache:
    """Jobs that run, each with a pod."""
    cache = Cache()
    for number in range(count):
        uid = f"uid-{number}"
        cache.put(
            QuantizationJob.of(quantization_job(uid=uid, name=f"job-{number}", status={"jobUid": JOB_UID}))
        )
        cache.put(ChildPod.of(running(name=f"pod-{number}", labels={QJOB_UID_LABEL: uid})))
    return cache


def polled(
    pods: int, seconds: float, answer_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], int]:
    """When pods were asked in so many seconds of a loop whose clock the test moves, and how many at once at most."""
    loop, begun, under_way, most = StillLoop(), [], 0, 0

    async def slow_fetch(_session: aiohttp.ClientSession, _address: str) -> None:
        nonlocal under_way, most
        begun.append(loop.time())
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(answer_seconds)
        under_way -= 1

    monkeypatch.setattr(progress, "fetch", slow_fetch)
    settings, queue = OperatorSettings(), WorkQueue(loop.time, lambda: 0.0)
    poller = Poller(
        many_running(pods), queue, settings.progress_interval_seconds, settings.progress_polls_per_second
    )
    task = loop.create_task(poller.run(loop.time))
    for _ in range(round(seconds / STEP_SECONDS)):
        loop.settle(STEP_SECONDS)
    task.cancel()
    loop.settle()
    loop.close()
    return begun, most


STEP_SECONDS = 0.01


def test_pods_are_asked_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = OperatorSettings().progress_polls_per_second
    begun, _ = polled(60, 2.5, 0.0, monkeypatch)
    assert len(begun) == pytest.approx(2.5 * rate, abs=2), "as many as it may, and no more"
    gaps = [later - sooner for sooner, later in itertools.pairwise(begun)]
    assert min(gaps) >= 1 / rate - 1e-9


def test_few_pods_are_asked_at_once_however_slow_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, most = polled(60, 4.0, 1.0, monkeypatch)
    assert most == AT_ONCE
    assert len(begun) == pytest.approx(4.0 * AT_ONCE, abs=AT_ONCE), (
        "the next ones as soon as others are through"
    )


def test_no_pod_is_asked_again_before_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    interval = OperatorSettings().progress_interval_seconds
    begun, _ = polled(3, 2.5 * interval, 0.0, monkeypatch)
    rounds = [begun[number : number + 3] for number in range(0, len(begun), 3)]
    assert len(rounds) == 3
    starts = [moments[0] for moments in rounds]
    assert [later - sooner for sooner, later in itertools.pairwise(starts)] == pytest.approx(
        [interval] * 2, abs=0.1
    )
