"""In which order the controller does what was decided."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from tests.support.cluster_objects import child, job

from quantization_api.status import QuantizationJobStatus
from quantization_operator.cache import Cache
from quantization_operator.controller import Controller
from quantization_operator.kueue import Kueue
from quantization_operator.metrics import Metrics
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import JOB_UID_LABEL, ChildJob, JobRequest
from quantization_operator.write import Writer

pytestmark = pytest.mark.unit


class Recorder:
    """Writes nothing, and remembers what would have been written."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def create_job(self, request: JobRequest, manifest: Mapping[str, Any]) -> ChildJob:
        self.written.append(f"Job of {request.name}")
        metadata = manifest["metadata"]
        return ChildJob.of(
            child(
                uid=f"job-{request.uid}",
                name=metadata["name"],
                labels={JOB_UID_LABEL: request.uid},
                ownerReferences=metadata["ownerReferences"],
            )
        )

    async def patch_status(
        self, request: JobRequest, _: Mapping[str, Any], after: QuantizationJobStatus
    ) -> JobRequest:
        self.written.append(f"status of {request.name}")
        status = json.loads(after.model_dump_json(by_alias=True, exclude_none=True))
        return JobRequest.of(
            job(
                uid=request.uid,
                name=request.name,
                resourceVersion=str(request.resource_version + 1),
                status=status,
            )
        )

    async def post_event(self, request: JobRequest, *_: object) -> None:
        self.written.append(f"event of {request.name}")


def test_no_job_waits_for_the_status_of_another() -> None:
    """A Job costs the API server a tenth of a status: with many new objects, all Jobs come first."""

    async def run() -> list[str]:
        cache, queue, recorder = Cache(), WorkQueue(lambda: 0.0, lambda: 1.0), Recorder()
        controller = Controller(
            cache,
            queue,
            cast(Reader, None),
            cast(Kueue, None),
            cast(Writer, recorder),
            Metrics(),
            OperatorSettings(),
            lambda: datetime(2026, 1, 1, tzinfo=UTC),
            lambda: 0.0,
        )
        for name in "abc":
            body = job(("output.uri", f"s3://artifacts/{name}"), uid=f"uid-{name}", name=name)
            if key := cache.put(JobRequest.of(body)):
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
