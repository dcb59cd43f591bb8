"""In which order the controller does what was decided."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.support.cluster_objects import child, controlled_by, pod, quantization_job, running
from tests.support.model_cluster import ModelCluster
from tests.support.model_operator import ModelOperator, StillLoop

from quantization_api.status import QuantizationJobStatus
from quantization_operator.cache import KINDS, Cache, Key
from quantization_operator.controller import Controller
from quantization_operator.kube import ApiError
from quantization_operator.kueue import Kueue
from quantization_operator.metrics import Metrics
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QJOB_UID_LABEL, ChildJob, ChildPod, QuantizationJob
from quantization_operator.workload import job_name
from quantization_operator.write import Writer

pytestmark = pytest.mark.unit


class Recorder:
    """Writes nothing, and remembers what would have been written."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def create_job(self, qjob: QuantizationJob, manifest: Mapping[str, Any]) -> ChildJob:
        self.written.append(f"Job of {qjob.name}")
        metadata = manifest["metadata"]
        return ChildJob.of(
            child(
                uid=f"job-{qjob.uid}",
                name=metadata["name"],
                labels={QJOB_UID_LABEL: qjob.uid},
                ownerReferences=metadata["ownerReferences"],
            )
        )

    async def patch_status(
        self, qjob: QuantizationJob, _: Mapping[str, Any], after: QuantizationJobStatus
    ) -> QuantizationJob:
        self.written.append(f"status of {qjob.name}")
        status = json.loads(after.model_dump_json(by_alias=True, exclude_none=True))
        return QuantizationJob.of(
            quantization_job(
                uid=qjob.uid,
                name=qjob.name,
                resourceVersion=str(qjob.resource_version + 1),
                status=status,
            )
        )

    async def post_event(self, qjob: QuantizationJob, *_: object) -> None:
        self.written.append(f"event of {qjob.name}")


def controller_of(
    cache: Cache,
    queue: WorkQueue,
    reader: object,
    writer: object,
    now: Callable[[], datetime],
    clock: Callable[[], float],
) -> Controller:
    """A controller of what is played here, and of nothing where that is None."""
    return Controller(
        cache,
        queue,
        cast(Reader, reader),
        cast(Kueue, None),
        cast(Writer, writer),
        Metrics(),
        OperatorSettings(),
        now,
        clock,
    )


def test_no_job_waits_for_the_status_of_another() -> None:
    """A Job costs the API server a tenth of a status: with many new objects, all Jobs come first."""

    async def run() -> list[str]:
        cache, queue, recorder = Cache(), WorkQueue(lambda: 0.0, lambda: 1.0), Recorder()
        controller = controller_of(
            cache, queue, None, recorder, lambda: datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC), lambda: 0.0
        )
        for name in "abc":
            body = quantization_job(("output.uri", f"s3://artifacts/{name}"), uid=f"uid-{name}", name=name)
            if key := cache.put(QuantizationJob.of(body)):
                queue.add(key)
        worker = asyncio.create_task(controller.work())
        async with asyncio.timeout(10):
            while sum(text.startswith("status") for text in recorder.written) < 3:
                await asyncio.sleep(0)
        worker.cancel()
        return recorder.written

    written = asyncio.run(run())
    assert written[:3] == ["Job of a", "Job of b", "Job of c"]
    assert [text for text in written if text.startswith("status")] == [f"status of {name}" for name in "abc"]


class SlowEvents:
    """Events that take the API server two seconds to find; it counts how often it was asked."""

    def __init__(self) -> None:
        self.time = 0.0
        self.reads = 0

    def clock(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime(2026, 1, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time)

    async def warnings(self, *_: object) -> tuple[()]:
        self.reads += 1
        self.time += 2.0
        return ()


def test_many_jobs_that_wait_leave_the_api_server_its_time() -> None:
    """Each of them would be told why it has no pod, and asks again."""

    async def run() -> SlowEvents:
        events, cache = SlowEvents(), Cache()
        queue = WorkQueue(events.clock, lambda: 1.0)
        controller = controller_of(cache, queue, events, Recorder(), events.now, events.clock)
        for number in range(100):
            uid = f"uid-{number}"
            cache.put(
                QuantizationJob.of(
                    quantization_job(uid=uid, name=f"n-{number}", status={"jobUid": f"job-{uid}"})
                )
            )
            name = job_name(f"n-{number}", uid)
            owners = controlled_by("QuantizationJob", f"n-{number}", uid)
            body = child(uid=f"job-{uid}", name=name, labels={QJOB_UID_LABEL: uid}, ownerReferences=owners)
            if key := cache.put(ChildJob.of(body)):
                queue.add(key)
        worker = asyncio.create_task(controller.work())
        while events.time < 400:
            for _ in range(1000):
                await asyncio.sleep(0)
            if queue.depth == 0:
                events.time += 1.0
                queue.add(Key("default", "nobody"))  # wakes the worker, which looks at the clock
        worker.cancel()
        return events

    events = asyncio.run(run())
    assert 5 <= events.reads <= 1 + 0.05 * events.time, "more than a twentieth of the time"


class SlowStatus(Recorder):
    """A writer whose status writes take the API server two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def clock(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC) + timedelta(seconds=self.time)

    async def patch_status(self, qjob: QuantizationJob, *more: Any) -> QuantizationJob:
        self.time += 2.0
        return await super().patch_status(qjob, *more)


def test_that_pods_start_is_not_told_of_all_when_the_api_server_has_too_much_to_do() -> None:
    """That one runs is told all the same."""

    async def run() -> SlowStatus:
        writer, cache = SlowStatus(), Cache()
        queue = WorkQueue(writer.clock, lambda: 1.0)
        controller = controller_of(cache, queue, None, writer, writer.now, writer.clock)
        for number in range(10):
            uid, name = f"uid-{number}", f"n-{number}"
            cache.put(
                QuantizationJob.of(
                    quantization_job(
                        uid=uid,
                        name=name,
                        status={"jobUid": f"job-{uid}"},
                        creationTimestamp="2026-01-01T00:00:00Z",
                    )
                )
            )
            owners = controlled_by("QuantizationJob", name, uid)
            body = child(
                uid=f"job-{uid}",
                name=job_name(name, uid),
                labels={QJOB_UID_LABEL: uid},
                ownerReferences=owners,
                creationTimestamp="2026-01-01T00:00:00Z",
            )
            cache.put(ChildJob.of(body))
            owners = controlled_by("Job", job_name(name, uid), f"job-{uid}")
            metadata = {"uid": f"pod-{uid}", "labels": {QJOB_UID_LABEL: uid}, "ownerReferences": owners}
            metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
            cache.put(ChildPod.of(running(**metadata) if number == 9 else pod({}, **metadata)))
            queue.add(Key("default", uid))
        worker = asyncio.create_task(controller.work())
        for _ in range(1000):
            await asyncio.sleep(0)
        worker.cancel()
        return writer

    written = [text for text in asyncio.run(run()).written if text.startswith("status")]
    assert written == ["status of n-0", "status of n-1", "status of n-9"]


class Refusing:
    """A cluster whose API server, from some time on, has no answer but 500 to one kind of request about Jobs."""

    def __init__(self) -> None:
        self.loop = StillLoop()
        start = datetime(2026, 1, 1, tzinfo=UTC)
        self.cluster = ModelCluster(lambda: start + timedelta(seconds=self.loop.moment))
        self.operator = ModelOperator(self.loop, self.cluster.server, start)
        self.refused = ""
        self.tries = 0

    def goes_on(self, seconds: float) -> None:
        """Let time pass, and everybody do what there is to do."""
        self.loop.settle(seconds)
        for _ in range(2):
            for kind in KINDS:
                while self.operator.behind(kind):
                    self.operator.deliver(kind)
            self.loop.settle()
            while self.operator.network.calls:
                call = self.operator.network.calls[0]
                if call.method == self.refused and "/jobs" in call.path:
                    self.tries += 1
                    self.operator.fail(call, 500, arrived=False)
                    continue
                call.arrive(self.cluster.server)
                call.come_back()
                self.loop.settle()
            self.cluster.control()

    def gone_after(self, uid: str, step: float = 5.0, most: float = 2000.0) -> float:
        """Seconds until an object that is deleted now is gone."""
        self.cluster.server.delete("QuantizationJob", uid)
        began = self.loop.moment
        while uid in self.cluster.server.objects["QuantizationJob"]:
            assert self.loop.moment < began + most, "it is held up for ever"
            self.goes_on(step)
        return self.loop.moment - began


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    found = Refusing()
    yield found
    found.operator.kill()
    found.loop.close()


def test_what_a_webhook_asks_to_wait_is_waited(refusing: Refusing) -> None:
    refusing.cluster.submit("job")
    refusing.operator.deliver("QuantizationJob")
    refusing.loop.settle()
    (call,) = refusing.operator.network.calls
    later = 'admission webhook "quota.example.com" denied the request: later'
    call.come_back(ApiError(429, later, "TooManyRequests", retry_after=30.0))
    for _ in range(29):
        refusing.goes_on(1)
    assert not refusing.cluster.server.objects["Job"]
    refusing.goes_on(2)
    assert refusing.cluster.server.objects["Job"]


@pytest.mark.parametrize(
    ("refused", "ended", "said"),
    [
        ("POST", True, "500 : a fault"),
        ("DELETE", False, "500 : a fault"),
        ("DELETE", True, "did not finish within 600 s"),
    ],
    ids=["no clean-up can be made", "its Job cannot be stopped", "its clean-up can not be stopped either"],
)
def test_what_is_deleted_goes_whatever_the_api_server_refuses(
    refusing: Refusing, refused: str, ended: bool, said: str
) -> None:
    uid = refusing.cluster.submit("job", ("artifactPolicy", "Delete"))
    refusing.goes_on(1)
    (pod,) = refusing.cluster.server.objects["Pod"]
    refusing.cluster.start(pod)
    if ended:
        refusing.cluster.end(pod, "success")
    for _ in range(3):
        refusing.goes_on(1)
    refusing.refused = refused
    assert 590 <= refusing.gone_after(uid) <= 670
    assert refusing.tries >= (1 if ended and refused == "DELETE" else 10)
    (event,) = (e for e in refusing.cluster.server.events.values() if e["reason"] == "ArtifactLeft")
    assert event["type"] == "Warning"
    assert "the artifact may still be at s3://artifacts/job" in event["message"]
    assert said in event["message"]


def test_a_failure_is_logged_with_its_category_and_its_message(caplog: pytest.LogCaptureFixture) -> None:
    refusing = Refusing()
    cluster, operator = refusing.cluster, refusing.operator
    uid = cluster.submit("job")
    refusing.goes_on(1)
    cluster.control()
    (pod_uid,) = cluster.server.objects["Pod"]
    cluster.start(pod_uid)
    cluster.end(pod_uid, "final")
    cluster.control()
    refusing.goes_on(1)
    operator.kill()
    refusing.loop.close()
    (said,) = [record for record in caplog.records if "failed" in record.getMessage()]
    assert (said.levelname, said.getMessage()) == ("WARNING", "job failed: ModelNotFound: it is not there.")
    assert (said.__dict__["category"], said.__dict__["uid"]) == ("ModelNotFound", uid)
