"""A status that the API server rejects is written with less, so that an end is always told."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from tests.support.cluster_objects import condition_status, quantization_job, result_status

from quantization_api.status import QuantizationJobStatus
from quantization_operator.kube import ApiError
from quantization_operator.snapshots import QuantizationJob
from quantization_operator.status_writer import StatusWriter, rejects
from quantization_operator.write import Writer

pytestmark = pytest.mark.unit

REQUEST = QuantizationJob.of(quantization_job())
DONE = QuantizationJobStatus.model_validate(
    result_status(progress={"percent": 100, "layer": 6, "layers": 6}, trials=[{"parameters": "x"}])
)
FAILED = QuantizationJobStatus.model_validate(
    condition_status("Stalled", "Internal", failure={"category": "Internal", "message": "m", "hint": "h"})
)


class Picky:
    """An API server that rejects statuses as long as something is in them."""

    def __init__(self, code: int, message: str, *disliked: str) -> None:
        self.error = ApiError(code, message)
        self.disliked = disliked
        self.tries: list[QuantizationJobStatus] = []

    async def patch_status(
        self, qjob: QuantizationJob, _: Mapping[str, Any], after: QuantizationJobStatus
    ) -> QuantizationJob:
        self.tries.append(after)
        told = after.model_dump_json(exclude_defaults=True)
        if any(word in told for word in self.disliked):
            raise self.error
        return qjob


def write(server: Picky, status: QuantizationJobStatus, times: int = 1) -> QuantizationJobStatus:
    async def run() -> QuantizationJobStatus:
        writer = StatusWriter(cast(Writer, server))
        for _ in range(times):
            _, written = await writer.write(REQUEST, status)
        return written

    return asyncio.run(run())


@pytest.mark.parametrize("code", [400, 413, 422])
def test_what_is_refused_is_left_out_in_this_order_until_it_is_taken(code: int) -> None:
    assert write(Picky(code, "no"), DONE) == DONE
    written = write(Picky(code, "no", "progress"), DONE)
    assert written == DONE.model_copy(update={"progress": None})
    written = write(Picky(code, "no", "trials"), DONE)
    assert (written.progress, written.metrics, written.trials) == (None, [], [])
    assert written.artifact == DONE.artifact
    picky = Picky(code, "no", "as before")
    written = write(picky, DONE)
    assert len(picky.tries) == 4
    assert (written.phase, written.recipe, written.completion_time) == (
        "Succeeded",
        DONE.recipe,
        DONE.completion_time,
    )
    assert written.artifact is not None
    assert DONE.artifact is not None
    assert written.artifact.uri == DONE.artifact.uri


def test_a_failure_keeps_its_category_when_its_message_is_refused() -> None:
    written = write(Picky(422, "no", '"h"'), FAILED)
    assert written.failure is not None
    assert written.failure.category == "Internal"
    assert "the API server rejected" in written.failure.message


def test_a_decoding_error_is_a_refusal_and_other_troubles_are_not() -> None:
    assert rejects(ApiError(500, "json: cannot unmarshal number 1e30 into Go value of type int64"))
    assert rejects(ApiError(500, "unable to decode the patch"))
    for code, message in (
        (500, "etcdserver: request timed out"),
        (409, "decode"),
        (404, ""),
        (0, ""),
        (503, ""),
    ):
        assert not rejects(ApiError(code, message))


@pytest.mark.parametrize("code", [0, 404, 409, 500, 503])
def test_other_errors_are_not_answered_with_less(code: int) -> None:
    server = Picky(code, "x", "phase")
    with pytest.raises(ApiError):
        write(server, DONE)
    assert len(server.tries) == 1


def test_when_nothing_is_taken_the_first_refusal_is_the_error() -> None:
    server = Picky(422, "the first", "phase")
    with pytest.raises(ApiError, match="the first"):
        write(server, DONE)
    assert len(server.tries) == 4


def test_it_is_logged_once_for_each_object(caplog: pytest.LogCaptureFixture) -> None:
    write(Picky(422, "layer: too large", "progress"), DONE, times=3)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "the status of job was written without its progress: 422 : layer: too large"
