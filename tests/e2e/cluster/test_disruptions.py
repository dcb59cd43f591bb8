"""Disruptions on a real node: none is an attempt, and the result is, bit by bit, that of a run nobody disturbed."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support import disturbed
from tests.support.disturbed import pod_that_works, pods, ready
from tests.support.priorities import Priorities
from tests.support.quick_job import quick, tensors
from tests.support.status_recorder import Recorder

from local_cluster import images, operator_install, s3
from quantization_operator.settings import OperatorSettings

pytestmark = pytest.mark.faults

EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
LIMIT = 300.0
LEASE = OperatorSettings().lease_name
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
DISRUPTED = {"failed": 0, "disrupted": 1}
Document = dict[str, Any]
Stored = Callable[[str], dict[str, str]]


@dataclass
class Calm:
    """The same job, undisturbed but for a rollout of the operator in its middle.

    leaders: who led, in their order. leaderless: for how long at most nobody did, in seconds.
    """

    status: Document
    leaders: list[str]
    leaderless: float


@pytest.fixture(scope="module")
def calm(whole: Any) -> Calm:
    whole.apply_example(EXAMPLE, "calm", quick)
    pod_that_works(whole, "calm", 1)
    leaders, leaderless = _roll_out(whole)
    print(f"calm: nobody led for at most {leaderless:.1f} s")
    return Calm(whole.wait("calm", "Ready", LIMIT)["status"], leaders, leaderless)


def _roll_out(whole: Any) -> tuple[list[str], float]:
    """Replace the operator's pods, and watch its lease until all are new."""

    def operator(*arguments: str) -> str:
        return str(whole.target.kubectl("--namespace", operator_install.NAMESPACE, *arguments).stdout)

    def leader() -> str:
        return operator("get", "lease", LEASE, "--output", "jsonpath={.spec.holderIdentity}")

    deployment = f"deployment/{operator_install.NAME}"
    leaders, longest = [leader()], 0.0
    operator("rollout", "restart", deployment)
    began = led = time.monotonic()
    while (
        "successfully" not in operator("rollout", "status", deployment, "--watch=false") or len(leaders) < 2
    ):
        now = time.monotonic()
        assert now - began < LIMIT, f"the rollout is not done: {leaders}"
        if holder := leader():
            longest, led = max(longest, now - led), now
            leaders += [holder] if holder != leaders[-1] else []
    return leaders, longest


def test_a_rollout_of_the_operator_disturbs_no_job(calm: Calm, whole: Any) -> None:
    assert len(calm.leaders) >= 2, "the lease never changed hands"
    assert calm.leaderless < 20
    assert len(_jobs(whole, "calm")) == 1
    assert len(pods(whole, "calm")) == 1
    assert "attempts" not in calm.status


def _jobs(whole: Any, name: str) -> list[Document]:
    found: list[Document] = whole.get("jobs", "--selector", f"quantization.dev/job-name={name}")["items"]
    return found


def _drain(whole: Any, pod: str) -> None:
    """Of this pod only: the S3 server is on the same node, and keeps its objects only as long as its pod lives."""
    drained = ("--disable-eviction=false", "--delete-emptydir-data", "--force", "--timeout=60s")
    whole.kubectl("drain", "local", "--pod-selector=quantization.dev/job-name=drained", *drained)


@pytest.mark.parametrize("kind", ["evicted", "deleted", "drained"])
def test_the_work_goes_on_from_the_last_finished_layer(
    whole: Any, calm: Calm, stored: Stored, kind: str, recorder: Recorder, wait_until: Callable[..., Any]
) -> None:
    whole.apply_example(EXAMPLE, kind, quick)
    pod = pod_that_works(whole, kind, 2)
    disturb = {"evicted": disturbed.evict, "deleted": disturbed.delete, "drained": _drain}[kind]
    disturb(whole, pod)
    if kind == "evicted":
        recorder.seen("evicted-by-the-api", whole.namespace, kind)
    if kind == "drained":
        try:
            wait_until(lambda: _reason(whole, kind) == "Unschedulable", "the drain to be told", 60)
        finally:
            whole.kubectl("uncordon", "local")
    _went_on(whole, kind, stored, DISRUPTED)


def _reason(whole: Any, name: str) -> str:
    return str(ready(whole.get("quantizationjob", name)).get("reason", ""))


def _went_on(whole: Any, name: str, stored: Stored, attempts: Document | None) -> None:
    status = whole.wait(name, "Ready", LIMIT)["status"]
    assert status.get("attempts") == attempts
    assert len(_jobs(whole, name)) == 1
    log = whole.kubectl("logs", pods(whole, name)[-1]["metadata"]["name"])
    assert re.search(r"took over [1-9]\d* layers from an earlier attempt", log), log
    assert tensors(stored(name)) == tensors(stored("calm"))


@pytest.fixture
def survivors(whole: Any) -> Iterator[None]:
    """The S3 server and the operator stay where they are when their node is given up: there is no other."""
    forever = {"operator": "Exists", "effect": "NoExecute"}
    for namespace in (s3.NAMESPACE, operator_install.NAMESPACE, "kube-system"):
        found = whole.target.kubectl("--namespace", namespace, "get", "pods", "--output", "json").stdout
        for pod in json.loads(found)["items"]:
            if pod["status"]["phase"] == "Running":
                patch = {"spec": {"tolerations": [forever, *pod["spec"].get("tolerations", [])]}}
                whole.target.kubectl(
                    "--namespace", namespace, "patch", "pod", pod["metadata"]["name"], "--type=merge",
                    "--patch", json.dumps(patch),
                )  # fmt: skip
    yield
    whole.target.kubectl("taint", "node", whole.settings.node_name, f"{OUT_OF_SERVICE}-", check=False)
    disturbed.bring_node_back(whole.settings)


def test_a_lost_node_is_named_with_the_way_out_and_the_job_ends(
    whole: Any,
    calm: Calm,
    stored: Stored,
    survivors: None,
    recorder: Recorder,
    wait_until: Callable[..., Any],
) -> None:
    whole.apply_example(EXAMPLE, "lost", quick)
    pod_that_works(whole, "lost", 2)
    (pod,) = pods(whole, "lost")
    began = time.monotonic()
    disturbed.lose_node(whole.settings, pod)
    wait_until(lambda: _reason(whole, "lost") == "NodeLost", "the lost node to be told", 120)
    recorder.seen("node-lost-terminating", whole.namespace, "lost")
    print(f"lost: told after {time.monotonic() - began:.0f} s")
    message = ready(whole.get("quantizationjob", "lost"))["message"]
    assert "node local stopped answering" in message
    way_out = f"kubectl taint node local {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
    assert way_out in message, message
    whole.target.kubectl(*way_out.split()[1:])
    wait_until(lambda: _reason(whole, "lost") == "Unschedulable", "another pod, which has no node", 90)
    whole.target.kubectl("taint", "node", "local", f"{OUT_OF_SERVICE}-")
    disturbed.bring_node_back(whole.settings)
    _went_on(whole, "lost", stored, DISRUPTED)


def test_a_pause_is_no_disruption_and_the_work_goes_on(
    whole: Any, calm: Calm, stored: Stored, wait_until: Callable[..., Any]
) -> None:
    whole.apply_example(EXAMPLE, "paused", quick)
    pod = pod_that_works(whole, "paused", 2)
    _suspend(whole, "paused", True)
    wait_until(
        lambda: not _jobs(whole, "paused") and not pods(whole, "paused"), "the Job and its pod to go", 90
    )
    job = whole.wait("paused", "Suspended", 30)
    assert job["status"]["phase"] == "Suspended"
    assert any(key.startswith(".state/") for key in stored("paused")), "no finished layer was kept"
    assert "manifest.json" not in stored("paused")
    _suspend(whole, "paused", False)
    _went_on(whole, "paused", stored, attempts=None)
    assert pods(whole, "paused")[-1]["metadata"]["name"] != pod


def _suspend(whole: Any, name: str, paused: bool) -> None:
    patch = json.dumps({"spec": {"suspend": paused}})
    whole.kubectl("patch", "quantizationjob", name, "--type=merge", "--patch", patch)


@pytest.fixture
def priorities(whole: Any) -> Iterator[Priorities]:
    """Two PriorityClasses, and neither afterwards."""
    with Priorities(whole) as priorities:
        yield priorities


def test_a_pod_of_higher_priority_takes_the_place_and_the_work_goes_on(
    whole: Any,
    calm: Calm,
    stored: Stored,
    priorities: Priorities,
    recorder: Recorder,
    wait_until: Callable[..., Any],
) -> None:
    def modest(manifest: Document) -> None:
        quick(manifest)
        manifest["spec"]["template"]["priorityClassName"] = priorities.low
        manifest["spec"]["template"]["resources"] = {"requests": {"cpu": "500m", "memory": "256Mi"}}

    whole.apply_example(EXAMPLE, "preempted", modest)
    pod_that_works(whole, "preempted", 2)
    priorities.take_the_node()
    recorder.seen("preempted", whole.namespace, "preempted")
    wait_until(lambda: _reason(whole, "preempted") == "Unschedulable", "the lack of a place to be told", 120)
    wait_until(priorities.runs, "the urgent pod to run", 120)
    priorities.leave_the_node()
    _went_on(whole, "preempted", stored, DISRUPTED)


def test_a_deadline_ends_the_job_and_nothing_is_published(whole: Any, stored: Stored) -> None:
    def hurried(manifest: Document) -> None:
        quick(manifest)
        manifest["spec"]["activeDeadlineSeconds"] = 3

    whole.apply_example(EXAMPLE, "hurried", hurried)
    failure = whole.wait("hurried", "Stalled", 120)["status"]["failure"]
    assert failure["category"] == "DeadlineExceeded"
    assert failure["hint"]
    assert "manifest.json" not in stored("hurried")
