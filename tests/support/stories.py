"""Lives of jobs, told from the side of the cluster: what the kubelet and the user do, and how it must end."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.support.cluster_objects import disruption, failed_result, message_of
from tests.support.status_rules import Body

Step = str
"""A pod's outcome, or what the user does while a pod runs."""

OUTCOMES: dict[Step, tuple[int, str, str, bool]] = {
    "succeed": (0, "", "Completed", False),
    "fail for good": (66, failed_result("ModelNotFound"), "Error", False),
    "fail": (75, failed_result("StorageUnavailable"), "Error", False),
    "run out of memory": (137, "", "OOMKilled", False),
    "be evicted": (143, "", "Error", True),
    "be forgotten": (137, "", "ContainerStatusUnknown", False),
}
"""Exit code, termination message (of a success it is that of the pod), reason, whether the pod is disrupted."""


@dataclass(frozen=True, slots=True)
class Story:
    """What happens, one step for each pod, and the right end.

    end: phase, "" when the object is gone. category: of its failure. failed, disrupted: its attempts at the end.
    """

    steps: tuple[Step, ...]
    end: str
    category: str = ""
    failed: int = 0
    disrupted: int = 0
    changes: tuple[tuple[str, Any], ...] = ()


STORIES: dict[str, Story] = {
    "succeeds": Story(("succeed",), "Succeeded"),
    "fails for good": Story(("fail for good",), "Failed", "ModelNotFound", failed=1),
    "succeeds at the second attempt": Story(("fail", "succeed"), "Succeeded", failed=1),
    "has no attempt left": Story(
        ("fail",), "Failed", "StorageUnavailable", failed=1, changes=(("backoffLimit", 0),)
    ),
    "runs out of memory": Story(("run out of memory",), "Failed", "HostOutOfMemory", failed=1),
    "is evicted": Story(("be evicted", "succeed"), "Succeeded", disrupted=1, changes=(("backoffLimit", 0),)),
    "is evicted, then fails for good": Story(
        ("be evicted", "fail for good"), "Failed", "ModelNotFound", failed=1, disrupted=1
    ),
    "is forgotten by its node": Story(("be forgotten", "succeed"), "Succeeded", disrupted=1),
    "is paused": Story(("pause", "succeed"), "Succeeded"),
    "is paused, then fails for good": Story(("pause", "fail for good"), "Failed", "ModelNotFound", failed=1),
    "is deleted while it runs": Story(("delete",), ""),
    "loses its Job": Story(("delete the Job",), "Failed", "JobDeleted"),
}


def story(seed: str) -> str:
    """The name of a schedule's story."""
    return random.Random(f"story {seed}").choice(sorted(STORIES))


@dataclass
class Life:
    """One job that lives a story. done: steps that were taken. pods: those that a step was spent on."""

    name: str
    uid: str
    story: Story
    done: int = 0
    pods: set[str] = field(default_factory=set)
    paused: bool = False
    wrong: list[str] = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Every step was taken, and no pause is left to end."""
        return self.done == len(self.story.steps) and not self.paused

    def over(self, request: Body | None) -> bool:
        """It has reached the end of its story, right or wrong; `request` is the object, None when it is gone."""
        if request is None:
            return True
        return self.told and request.get("status", {}).get("phase") in ("Succeeded", "Failed")

    def verdict(self, request: Body | None) -> list[str]:
        """What is wrong with the end."""
        told = self.story
        if request is None or not told.end:
            return [] if (request is None) == (not told.end) else [f"object: {request}"]
        status = request.get("status", {})
        attempts = status.get("attempts", {})
        found = (
            status.get("phase"),
            status.get("failure", {}).get("category", ""),
            attempts.get("failed", 0),
            attempts.get("disrupted", 0),
        )
        expected = (told.end, told.category, told.failed, told.disrupted)
        return (
            []
            if found == expected
            else [f"ended as {found}, not as {expected}; taken: {told.steps[: self.done]}"]
        )


def ended_pod(step: Step, pod: Body) -> str:
    """The patch of a pod's status with which its kubelet says how it ended."""
    code, message, reason, disrupted = OUTCOMES[step]
    ended = {"exitCode": code, "message": message or (message_of(pod) if code == 0 else ""), "reason": reason}
    times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
    status = _status("Failed" if code else "Succeeded", {"terminated": ended | times})
    if disrupted:
        status["conditions"] = [disruption() | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]
    return json.dumps({"status": status})


def running_pod() -> str:
    """The patch with which a kubelet says that a pod runs."""
    return json.dumps({"status": _status("Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})})


def _status(phase: str, state: dict[str, Any]) -> dict[str, Any]:
    container = {
        "name": "quantizer",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
    return {"phase": phase, "containerStatuses": [container]}
