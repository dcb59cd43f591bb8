"""What a suspended Job's Workload says of it, and how often Kueue is asked.

The Workloads were recorded from Kueue 0.15.0, with all that is not read left out.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from tests.support.cluster_objects import CREATED, UID, child

from quantization_operator.kube import ApiError, Kube
from quantization_operator.kueue import Kueue
from quantization_operator.policies import queueing
from quantization_operator.queue_entry import QUEUE_LABEL, QueueEntry, pending_position
from quantization_operator.snapshots import QJOB_UID_LABEL, ChildJob

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parent / "recorded_workloads"
START = datetime.fromisoformat(CREATED)
NOW = START + timedelta(minutes=10)
QUOTA = "insufficient unused quota for cpu"

EXPECTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "waiting": ("Queued", ("position 2 in LocalQueue lq: couldn't assign flavors", QUOTA)),
    "no-such-queue": ("Queued", ("LocalQueue nowhere doesn't exist",)),
    "no-such-resource": ("Queued", ("resource memory unavailable in ClusterQueue",)),
    "queue-held": ("Queued", ("LocalQueue lq is inactive",)),
    "preempted": ("Preempted", ("position 2", QUOTA, "due to prioritization in the ClusterQueue")),
    "preempted-then-held": ("Preempted", ("LocalQueue lq is inactive",)),
    "queue-drained": ("Evicted", ("ClusterQueueStopped: The ClusterQueue is stopped",)),
    "admitted-again": ("Queued", ("has its quota", "the start of its Job")),
    "deactivated": ("Deactivated", ("spec.active of Workload job-a",)),
    "admission-check": ("Queued", ("admission check budget",)),
}


def pending(*names: str) -> dict[str, Any]:
    items = [{"metadata": {"name": n}, "positionInLocalQueue": i} for i, n in enumerate(names)]
    return {"items": items}


def workload(name: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return body | {"metadata": {"name": "job-a"}}


def suspended(queue: str = "lq") -> ChildJob:
    labels = {QJOB_UID_LABEL: UID} | ({QUEUE_LABEL: queue} if queue else {})
    return ChildJob.of(child(suspend=True, labels=labels))


def test_every_recorded_workload_is_judged() -> None:
    assert set(EXPECTED) == {path.stem for path in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_workload_tells_how_the_job_stands(name: str) -> None:
    reason, words = EXPECTED[name]
    entry = QueueEntry.of(
        workload(name), dict(map(pending_position, pending("job-b", "job-a")["items"])), NOW
    )
    state = queueing.state(suspended(), entry, before="Running")
    assert (state.kind, state.reason) == ("in progress", reason)
    for word in words:
        assert word in state.message


@pytest.mark.parametrize(
    ("queue", "entry", "before", "reason", "said"),
    [
        ("lq", None, "", "Queued", "waiting for admission by LocalQueue lq"),
        ("lq", QueueEntry(NOW), "", "Queued", "waiting for admission by LocalQueue lq"),
        ("lq", QueueEntry(NOW, message="Kueue is not installed"), "", "Queued", "(Kueue is not installed)"),
        ("lq", QueueEntry(NOW), "Running", "Preempted", "waiting for admission"),
        ("lq", QueueEntry(NOW), "Preempted", "Preempted", "waiting for admission"),
        ("", None, "", "Queued", "it starts when it is resumed"),
        ("", None, "Running", "Preempted", "it starts when it is resumed"),
    ],
)
def test_without_a_workload_the_state_before_tells(
    queue: str, entry: QueueEntry | None, before: str, reason: str, said: str
) -> None:
    state = queueing.state(suspended(queue), entry, before)
    assert state.reason == reason
    assert said in state.message


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        (None, 0.0),
        (QueueEntry(NOW, "a", position=1), 6.0),
        (QueueEntry(NOW - timedelta(seconds=4), "a", position=1), 2.0),
        (QueueEntry(NOW - timedelta(seconds=60), "a", position=1), 0.0),
        (QueueEntry(NOW, "a", position=100), 105.0),
        (QueueEntry(NOW, "a", position=9000), 300.0),
        (QueueEntry(NOW, "a"), 150.0),
        (QueueEntry(NOW + timedelta(hours=2), "a"), 300.0 + 7200.0),
        (QueueEntry(NOW - timedelta(minutes=10)), 0.0),
    ],
    ids=["never asked", "next", "asked before", "long ago", "100th", "9000th", "no position", "old", "stale"],
)
def test_the_nearer_its_turn_the_more_often_kueue_is_asked(entry: QueueEntry | None, left: float) -> None:
    assert queueing.left(suspended(), entry, NOW) == pytest.approx(left)


def test_right_after_its_creation_it_is_asked_soon_again() -> None:
    assert queueing.left(suspended(), QueueEntry(START), START) == queueing.EARLIEST_SECONDS


def test_kueue_is_never_asked_about_a_job_that_runs_or_has_no_queue() -> None:
    runs = ChildJob.of(child(labels={QJOB_UID_LABEL: UID, QUEUE_LABEL: "lq"}))
    assert queueing.left(runs, None, NOW) is None
    assert queueing.left(suspended(queue=""), None, NOW) is None


class Answers:
    """In place of the API server's answers: a function of the path, and what was asked for."""

    def __init__(self, answer: Callable[[str], dict[str, Any]]) -> None:
        self.answer = answer
        self.paths: list[str] = []

    async def request(
        self, method: str, path: str, each: Callable[[Any], Any] | None = None, **_: Any
    ) -> dict[str, Any]:
        assert method == "GET"
        self.paths.append(path)
        await asyncio.sleep(0)
        answer = self.answer(path)
        return answer | {"items": [each(item) for item in answer["items"]]} if each else answer


def ask(answers: Answers, times: int = 1) -> list[QueueEntry]:
    async def together() -> list[QueueEntry]:
        kueue = Kueue(cast(Kube, answers), lambda: NOW, lambda: 0.0)
        return await asyncio.gather(*(kueue.entry(suspended()) for _ in range(times)))

    return asyncio.run(together())


def test_the_line_of_a_queue_is_read_once_for_all_who_ask_together() -> None:
    def answer(path: str) -> dict[str, Any]:
        return pending("job-b", "job-a") if "visibility" in path else {"items": [workload("waiting")]}

    answers = Answers(answer)
    assert [entry.position for entry in ask(answers, times=5)] == [2] * 5
    assert sum("visibility" in path for path in answers.paths) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [(404, "not installed"), (403, "may not list workloads"), (500, "may not list workloads")],
)
def test_what_kueue_does_not_answer_is_told_and_is_no_error(code: int, said: str) -> None:
    def answer(path: str) -> dict[str, Any]:
        raise ApiError(code, "may not list workloads")

    (entry,) = ask(Answers(answer))
    assert entry.workload == ""
    assert said in entry.message


def test_without_the_visibility_server_the_reason_is_known_and_the_position_is_not() -> None:
    def answer(path: str) -> dict[str, Any]:
        if "visibility" in path:
            raise ApiError(503, "no endpoints")
        return {"items": [workload("waiting")]}

    (entry,) = ask(Answers(answer))
    assert entry.position is None
    assert QUOTA in entry.message
