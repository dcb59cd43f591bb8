"""A real Kueue with a quota of one job: three wait in line, a fourth is more urgent and takes the place of the first.

Kueue is there only for this file: while its webhook does not answer, no Job can be created anywhere.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.quick_job import quick, tensors

from local_cluster import images, kueue
from local_cluster.following import condition
from local_cluster.progress import Progress
from quantization_operator.queue_entry import QUEUE_LABEL

pytestmark = pytest.mark.faults

EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
LINE = ("first", "second", "third")
URGENT = "urgent"
LIMIT = 480.0
Document = dict[str, Any]


@dataclass
class Story:
    """What was seen twice a second, from the first job's creation to the last one's end."""

    seen: list[dict[str, Document]] = field(default_factory=list)
    admitted_at_once: list[int] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Document]:
        """The statuses at the end."""
        return self.seen[-1]

    def said(self, name: str) -> list[tuple[str, str]]:
        """Reason and message of one job, each once, in their order."""
        found = [
            (ready["reason"], ready["message"])
            for statuses in self.seen
            if (status := statuses.get(name)) and (ready := condition({"status": status}, "Ready"))
        ]
        return [said for i, said in enumerate(found) if i == 0 or said != found[i - 1]]


@pytest.fixture(scope="module")
def queues(whole: Any) -> Iterator[None]:
    """Kueue and its queues, and neither afterwards."""
    progress = Progress()
    kueue.install(whole.settings, whole.target, progress)
    try:
        whole.target.kubectl("apply", "--filename", Path(__file__).with_name("queues.yaml"))
        yield
        whole.kubectl(
            "delete", "quantizationjobs", *LINE, URGENT, "--ignore-not-found", "--cascade=foreground"
        )
    finally:
        kueue.remove(whole.settings, whole.target, progress)


@pytest.fixture(scope="module")
def story(whole: Any, queues: None) -> Story:
    """The run: the urgent job comes when the first has finished a layer and the others are told their positions."""
    story = Story()
    for name in LINE:
        whole.apply_example(EXAMPLE, name, _in_line())
    deadline = time.monotonic() + LIMIT
    late = False
    while not story.seen or not all(_ended(story.last, name) for name in (*LINE, URGENT)):
        assert time.monotonic() < deadline, (
            f"not done after {LIMIT:.0f} s: {json.dumps(story.seen[-1], indent=1)}"
        )
        jobs = whole.get("quantizationjobs")["items"]
        story.seen.append(
            {
                j["metadata"]["name"]: j.get("status", {})
                for j in jobs
                if j["metadata"]["name"] in (*LINE, URGENT)
            }
        )
        admitted = [j for j in whole.get("jobs", "--selector", QUEUE_LABEL)["items"] if _works(j)]
        story.admitted_at_once.append(len(admitted))
        for name, status in story.last.items():
            if status.get("phase") == "Running" and name not in story.order[-1:]:
                story.order.append(name)
        if not late and _half_done(story.last):
            whole.apply_example(EXAMPLE, URGENT, _in_line(urgent=True))
            late = True
        time.sleep(0.5)
    return story


def _in_line(urgent: bool = False) -> Callable[[Document], None]:
    def change(manifest: Document) -> None:
        labels = {QUEUE_LABEL: "batch"} | ({"kueue.x-k8s.io/priority-class": "urgent"} if urgent else {})
        manifest["metadata"]["labels"] = labels
        quick(manifest)

    return change


def _half_done(statuses: dict[str, Document]) -> bool:
    """One has finished layers, and two are told where they stand."""
    layers = [status.get("progress", {}).get("layer", 0) for status in statuses.values()]
    return max(layers, default=0) >= 2 and len(_positions(statuses)) == 2


def _positions(statuses: dict[str, Document]) -> dict[str, int]:
    found = {}
    for name, status in statuses.items():
        if status.get("phase") == "Queued":
            said = re.match(
                r"position (\d+) in LocalQueue batch", condition({"status": status}, "Ready")["message"]
            )
            if said:
                found[name] = int(said.group(1))
    return found


def _works(job: Document) -> bool:
    ended = {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}
    return not job["spec"].get("suspend") and not ended & {"Complete", "SuccessCriteriaMet", "Failed"}


def _ended(statuses: dict[str, Document], name: str) -> bool:
    return statuses.get(name, {}).get("phase") in ("Succeeded", "Failed")


def test_those_in_line_are_told_their_position_and_why_they_wait(story: Story) -> None:
    shown = [_positions(statuses) for statuses in story.seen]
    assert any(sorted(positions.values()) == [1, 2] for positions in shown), story.said("second")
    messages = [message for name in LINE for reason, message in story.said(name) if reason == "Queued"]
    assert any("insufficient unused quota for cpu" in message for message in messages), messages


def test_the_quota_of_one_is_kept(story: Story) -> None:
    assert max(story.admitted_at_once) == 1


def test_each_ends_ready(story: Story) -> None:
    assert {name: status["phase"] for name, status in story.last.items()} == dict.fromkeys(
        (*LINE, URGENT), "Succeeded"
    )


def _preempted(story: Story) -> str:
    """The name of the one job that had to make way."""
    (name,) = {n for n in story.last if any(reason == "Preempted" for reason, _ in story.said(n))}
    return name


def test_the_urgent_job_takes_the_place_of_the_one_that_runs(story: Story) -> None:
    name = _preempted(story)
    assert story.order[:2] == [name, URGENT]
    assert sorted(story.order) == sorted([*LINE, URGENT, name])
    message = next(message for reason, message in story.said(name) if reason == "Preempted")
    assert "Preempted to accommodate a workload" in message, message
    assert any(name in _positions(statuses) for statuses in story.seen)


def test_the_preempted_job_is_not_blamed_and_goes_on_from_its_layers(
    story: Story, whole: Any, stored: Callable[[str], dict[str, str]]
) -> None:
    name = _preempted(story)
    assert story.last[name]["attempts"] == {"failed": 0, "disrupted": 1}
    log = whole.kubectl("logs", f"job/{story.last[name]['jobName']}")
    assert re.search(r"took over [1-9]\d* layers from an earlier attempt", log), log
    undisturbed = next(other for other in LINE if other != name)
    assert tensors(stored(name)) == tensors(stored(undisturbed))


def test_only_kueue_writes_the_suspend_flag(story: Story, whole: Any) -> None:
    jobs = whole.get("jobs", "--selector", QUEUE_LABEL, "--show-managed-fields")["items"]
    writers = {
        entry["manager"]
        for job in jobs
        for entry in job["metadata"]["managedFields"]
        if "f:suspend" in entry["fieldsV1"].get("f:spec", {})
    }
    assert writers == {"kueue"}, writers
