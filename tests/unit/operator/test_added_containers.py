"""The status follows the quantizer's container, whatever else is in the pod (`policies/added.py`)."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.support.cluster_objects import (
    JOB_UID,
    RESULT,
    UID,
    child,
    condition_status,
    ended,
    failed_result,
    pod,
    quantization_job,
    running,
)
from tests.support.decisions import FRESH, LATER, NOW, RUNS, Case, decide, verify

from quantization_api.failures import Category
from quantization_api.pod import RunProgress
from quantization_operator import progress
from quantization_operator.cache import Cache, Key
from quantization_operator.diagnose import pod_failure
from quantization_operator.hindrances import waiting_problem
from quantization_operator.progress import OTHERS, SHUT_OFF, SILENT_SECONDS, Poller
from quantization_operator.queue import WorkQueue
from quantization_operator.snapshots import ChildPod, QuantizationJob

pytestmark = pytest.mark.unit

RECENTLY = (NOW - timedelta(seconds=10)).isoformat()
GOES_ON = {"name": "mesh", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
BROKE = {"name": "mesh", "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no server"}}}
SIDECAR = {"initContainerStatuses": [GOES_ON]}


def quantizer(code: int, message: str, at: str = "2026-01-01T00:00:01Z") -> dict[str, Any]:
    """The status of the quantizer's container when it has ended."""
    state = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}
    return {"name": "quantizer", "state": {"terminated": state | {"finishedAt": at}}}


def together(*containers: dict[str, Any], phase: str = "Running", **status: Any) -> dict[str, Any]:
    """A pod with these containers."""
    return pod({}, phase=phase, status={"containerStatuses": list(containers)} | status)


DONE = quantizer(0, RESULT.to_message())
WAY_OUT = "native sidecar"
CASES: dict[str, Case] = {
    "a sidecar that never ends: it is given a while": Case(
        pods=[together(quantizer(0, RESULT.to_message(), RECENTLY), GOES_ON)],
        rule="ending",
        requeued=20.0,
    ),
    "a sidecar that never ends, after that: the result counts, the Job is ended, with a word": Case(
        pods=[together(DONE, GOES_ON)],
        now=LATER,
        rule="outlived",
        phase="Succeeded",
        reason="Succeeded",
        said="the Job was ended, since container mesh of its pod did not end",
        deletes=True,
        events=("Succeeded",),
    ),
    "a sidecar that never ends beside a failure for good: the cause is told": Case(
        pods=[together(quantizer(66, failed_result("ModelNotFound")), GOES_ON)],
        now=LATER,
        rule="outlived",
        phase="Failed",
        category=Category.MODEL_NOT_FOUND,
        deletes=True,
        events=("ModelNotFound",),
    ),
    "a sidecar that never ends beside a failure that might heal: why it is not tried again": Case(
        pods=[together(quantizer(75, failed_result("StorageUnavailable")), GOES_ON)],
        now=LATER,
        rule="outlived",
        phase="Failed",
        category=Category.STORAGE_UNAVAILABLE,
        said=WAY_OUT,
        deletes=True,
        events=("StorageUnavailable",),
    ),
    "a sidecar that fails in the end: the result counts": Case(
        pods=[together(DONE, BROKE, phase="Failed")],
        rule="spoiled",
        phase="Succeeded",
        reason="Succeeded",
        said="container mesh of its pod failed, which changes nothing",
        deletes=True,
        events=("Succeeded",),
    ),
    "a native sidecar: the kubelet ends it, and the Job completes by itself": Case(
        pods=[together(DONE, phase="Running", **SIDECAR)], now=LATER, rule="ending"
    ),
    "a pod that is going away: its containers are told to end": Case(
        pods=[together(DONE, GOES_ON) | {"metadata": running(deletionTimestamp=RECENTLY)["metadata"]}],
        now=LATER,
        rule="ending",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_decision_follows_from_the_quantizers_container(case: Case) -> None:
    verify(replace(case, qjob=quantization_job(status=RUNS), child=child()))


def test_a_job_that_gave_up_because_of_a_sidecar_has_its_result() -> None:
    verify(
        Case(
            qjob=quantization_job(status=RUNS),
            child=child(status=ended("Failed", "BackoffLimitExceeded")),
            pods=[together(DONE, BROKE, phase="Failed")],
            more=FRESH,
            rule="published",
            phase="Succeeded",
            reason="Succeeded",
            said="which changes nothing",
            events=("Succeeded",),
        )
    )


def test_an_init_container_that_fails_is_named_with_what_it_said() -> None:
    waits = {"name": "quantizer", "state": {"waiting": {"reason": "PodInitializing"}}}
    found = pod_failure(ChildPod.of(together(waits, phase="Failed", initContainerStatuses=[BROKE])))
    assert found is not None
    assert found.category is Category.ADDED_CONTAINER
    assert "container mesh" in found.message
    assert "exit code 1: no server" in found.message


def test_a_native_sidecar_that_does_not_come_up_is_told() -> None:
    waits = {"name": "quantizer", "state": {"waiting": {"reason": "PodInitializing"}}}
    crashes = {
        "name": "mesh",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
        "lastState": BROKE["state"],
    }
    body = together(waits, phase="Pending", initContainerStatuses=[crashes])
    problem = waiting_problem([ChildPod.of(body)], [])
    assert problem is not None
    assert problem.failure.category is Category.ADDED_CONTAINER
    assert "container mesh" in problem.told


# --- the progress --------------------------------------------------------------------------------------------


def test_progress_that_cannot_be_read_is_told_once() -> None:
    first = decide(
        Case(qjob=quantization_job(status=RUNS), child=child(), pods=[running()], more={"unheard": SHUT_OFF})
    )
    assert [(event.reason, event.message) for event in first.events] == [("ProgressUnknown", SHUT_OFF)]
    assert first.status is not None
    written = first.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    again = decide(
        Case(
            qjob=quantization_job(status=written), child=child(), pods=[running()], more={"unheard": SHUT_OFF}
        )
    )
    assert (again.status, again.events) == (None, ())


@pytest.mark.parametrize(
    ("answer", "why"),
    [(None, SHUT_OFF), ("it answers with status 404", OTHERS), (RunProgress(percent=1), "")],
    ids=["nothing answers", "another container answers", "the quantizer answers"],
)
def test_a_pod_that_says_nothing_for_a_minute_is_noted(
    monkeypatch: pytest.MonkeyPatch, answer: RunProgress | str | None, why: str
) -> None:
    async def fetch(*_: object) -> RunProgress | str | None:
        return answer

    monkeypatch.setattr(progress, "fetch", fetch)
    cache = Cache()
    cache.put(QuantizationJob.of(quantization_job(status=condition_status("Reconciling"))))
    cache.put(ChildPod.of(running()))
    times = iter([0.0, 0.1, SILENT_SECONDS, SILENT_SECONDS + 0.1, SILENT_SECONDS + 1])

    async def rounds() -> None:
        poller = Poller(cache, WorkQueue(lambda: 0.0, lambda: 0.5), 0.0, 1e6)
        await poller.run(lambda: next(times))

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(rounds())
    record = cache.record(Key("default", UID))
    assert record is not None
    assert record.believed == JOB_UID
    assert record.unheard == why
