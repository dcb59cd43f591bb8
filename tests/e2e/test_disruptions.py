"""Disruptions on a real node: none is an attempt, and the result is, bit by bit, that of a run nobody disturbed."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support import disturbed
from tests.support.disturbed import pod_that_works, pods, ready
from tests.support.quick_job import quick, tensors

from local_cluster import images, operator_install, s3

pytestmark = pytest.mark.faults

EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
LIMIT = 300.0
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
Document = dict[str, Any]
Stored = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def calm(whole: Any) -> Document:
    """The same job, undisturbed but for a rollout of the operator in its middle."""
    whole.apply_example(EXAMPLE, "calm", quick)
    pod_that_works(whole, "calm", 1)
    began = time.monotonic()
    operator = ("--namespace", operator_install.NAMESPACE)
    deployment = f"deployment/{operator_install.NAME}"
    holders = {_leader(whole)}
    whole.target.kubectl(*operator, "rollout", "restart", deployment)
    seen = time.monotonic()
    longest = 0.0
    while time.monotonic() - began < 60 and (len(holders) < 2 or not _rolled_out(whole)):
        holder = _leader(whole)
        longest = max(longest, time.monotonic() - seen) if holder not in holders else longest
        if holder:
            holders.add(holder)
            seen = time.monotonic()
    job: Document = whole.wait("calm", "Ready", LIMIT)
    print(
        f"calm: the lease was without a holder for at most {longest:.1f} s; rollout {time.monotonic() - began:.0f} s"
    )
    return job | {"leaders": sorted(holders)}


def _leader(whole: Any) -> str:
    found = whole.target.kubectl(
        "--namespace", operator_install.NAMESPACE, "get", "lease", "quantization-operator-leader",
        "--output", "jsonpath={.spec.holderIdentity}",
    )  # fmt: skip
    return str(found.stdout)


def _rolled_out(whole: Any) -> bool:
    done = whole.target.kubectl(
        "--namespace", operator_install.NAMESPACE, "rollout", "status", f"deployment/{operator_install.NAME}",
        "--watch=false",
    )  # fmt: skip
    return "successfully rolled out" in done.stdout


def test_a_rollout_of_the_operator_disturbs_no_job(calm: Document, whole: Any) -> None:
    assert len(calm["leaders"]) >= 2, "the lease never changed hands"
    assert len(_jobs(whole, "calm")) == 1
    assert len(pods(whole, "calm")) == 1
    assert "attempts" not in calm["status"]


def _jobs(whole: Any, name: str) -> list[Document]:
    found: list[Document] = whole.get("jobs", "--selector", f"quantization.dev/job-name={name}")["items"]
    return found


def _drain(whole: Any, pod: str) -> None:
    """Of this pod only: the S3 server is on the same node, and keeps its objects only as long as its pod lives."""
    drained = ("--disable-eviction=false", "--delete-emptydir-data", "--force", "--timeout=60s")
    whole.kubectl("drain", "local", "--pod-selector=quantization.dev/job-name=drained", *drained)


@pytest.mark.parametrize("kind", ["evicted", "deleted", "drained"])
def test_the_work_goes_on_from_the_last_finished_layer(
    whole: Any, calm: Document, stored: Stored, kind: str, wait_until: Callable[..., Any]
) -> None:
    whole.apply_example(EXAMPLE, kind, quick)
    pod = pod_that_works(whole, kind, 2)
    disturb = {"evicted": disturbed.evict, "deleted": disturbed.delete, "drained": _drain}[kind]
    disturb(whole, pod)
    if kind == "drained":
        try:
            wait_until(lambda: _reason(whole, kind) == "Unschedulable", "the drain to be told", 60)
        finally:
            whole.kubectl("uncordon", "local")
    _went_on(whole, kind, calm, stored)


def _reason(whole: Any, name: str) -> str:
    return str(ready(whole.get("quantizationjob", name)).get("reason", ""))


def _went_on(whole: Any, name: str, calm: Document, stored: Stored) -> None:
    status = whole.wait(name, "Ready", LIMIT)["status"]
    assert status["attempts"] == {"failed": 0, "disrupted": 1}
    assert len(_jobs(whole, name)) == 1
    log = whole.kubectl("logs", pods(whole, name)[-1]["metadata"]["name"])
    assert re.search(r"[1-9]\d* layers were taken over from an earlier attempt", log), log
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
    whole: Any, calm: Document, stored: Stored, survivors: None, wait_until: Callable[..., Any]
) -> None:
    whole.apply_example(EXAMPLE, "lost", quick)
    pod_that_works(whole, "lost", 2)
    (pod,) = pods(whole, "lost")
    began = time.monotonic()
    disturbed.lose_node(whole.settings, pod)
    wait_until(lambda: _reason(whole, "lost") == "NodeLost", "the lost node to be told", 120)
    print(f"lost: told after {time.monotonic() - began:.0f} s")
    message = ready(whole.get("quantizationjob", "lost"))["message"]
    assert "node local stopped answering" in message
    way_out = f"kubectl taint node local {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
    assert way_out in message, message
    whole.target.kubectl(*way_out.split()[1:])
    wait_until(lambda: _reason(whole, "lost") == "Unschedulable", "another pod, which has no node", 90)
    whole.target.kubectl("taint", "node", "local", f"{OUT_OF_SERVICE}-")
    disturbed.bring_node_back(whole.settings)
    _went_on(whole, "lost", calm, stored)


def test_a_deadline_ends_the_job_and_nothing_is_published(whole: Any, stored: Stored) -> None:
    def hurried(manifest: Document) -> None:
        quick(manifest)
        manifest["spec"]["activeDeadlineSeconds"] = 3

    whole.apply_example(EXAMPLE, "hurried", hurried)
    failure = whole.wait("hurried", "Stalled", 120)["status"]["failure"]
    assert failure["category"] == "DeadlineExceeded"
    assert failure["hint"]
    assert "manifest.json" not in stored("hurried")
