"""The operator with the permissions of deploy/base against a real API server; the test plays the kubelet."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.cluster_objects import failed_result
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import Operator, until
from tests.support.pod_templates import VOLUMES, WHOLE
from tests.support.progress_page import progress_page

from local_cluster.control_plane import ApiServer
from quantization_operator.conditions import rfc3339
from quantization_operator.defaults_file import LOOK_SECONDS
from quantization_operator.rules.progressing import NEXT_POD_SECONDS
from quantization_operator.workload import job_name

pytestmark = pytest.mark.integration

IMPATIENT = {"image_pull_patience_seconds": 1, "start_patience_seconds": 1}
STATUS_WRITES = r'quantization_api_requests_total\{.*verb="PATCH"'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with (
        ApiServer(controllers=True) as api,
        closing(Cluster(api, tmp_path_factory.mktemp("operator"))) as made,
    ):
        yield made


@pytest.fixture
def operator(cluster: Cluster) -> Operator:
    return cluster.standing_operator(**IMPATIENT)


@pytest.fixture
def new_operator(cluster: Cluster) -> Iterator[Operator]:
    """For tests that count what it did."""
    with cluster.operator(**IMPATIENT) as running:
        yield running


@pytest.fixture
def progress_at() -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of a pod that says how far it is, and what it says."""
    address = "127.83.17.5"
    with progress_page(address) as said:
        yield address, said


def test_a_job_succeeds_and_its_whole_story_is_told(
    cluster: Cluster, new_operator: Operator, progress_at: tuple[str, dict[str, Any]]
) -> None:
    address, _ = progress_at
    before = new_operator.metric("quantization_api_requests_total")
    writes_before = new_operator.metric(STATUS_WRITES)
    uid = cluster.submit("healthy")
    pod = cluster.pod(uid)  # admitted by Pod Security in a restricted namespace
    assert cluster.phase("healthy", "Pending")["jobName"] == job_name("healthy", uid)
    cluster.kubelet_says(
        pod,
        "Running",
        {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        podIP=address,
        podIPs=[{"ip": address}],
    )
    cluster.phase("healthy", "Running")
    until("progress", lambda: cluster.status("healthy").get("progress", {}).get("percent") == 40)
    assert cluster.status("healthy")["progress"]["etaSeconds"] == 9
    cluster.succeeds(pod)
    cluster.wait("healthy", "Ready")
    status = cluster.status("healthy")
    assert status["phase"] == "Succeeded"
    assert status["observedGeneration"] == 1
    assert status["artifact"]["manifestDigest"] == "sha256:" + "b" * 64
    assert status["recipe"] == "sha256:" + "a" * 64
    assert status["metrics"] == [{"name": "ppl", "input": 10.0, "output": 10.2}]
    assert status["progress"]["percent"] == 100
    until("events", lambda: {"JobCreated", "Started", "Succeeded"} <= set(cluster.events("healthy")))
    assert new_operator.metric(r'quantization_jobs\{namespace="team",phase="Succeeded"\}') == 1
    assert new_operator.metric(r"quantization_artifact_bytes_total") == 8_000_000
    assert new_operator.metric(r'quantization_job_duration_seconds_count\{.*outcome="Succeeded"') == 1
    assert new_operator.metric(r"quantization_job_queue_seconds_count") == 1
    requests = new_operator.metric("quantization_api_requests_total") - before
    assert requests <= 10 + 1, "at most 10 requests for a healthy job, and one for its progress"
    assert new_operator.metric(STATUS_WRITES) - writes_before <= 6 + 1, (
        "at most 6 writes, and one for its progress"
    )
    columns = cluster.api.kubectl("get", "qj", "healthy", "-n", NAMESPACE).stdout
    assert "Succeeded" in columns
    assert "GptqQuantizer" in columns


def test_a_whole_pod_template_reaches_a_restricted_pod(cluster: Cluster, operator: Operator) -> None:
    """As this API server reads it: strictly, with Pod Security enforced."""
    uid = cluster.submit("templated", *((f"template.{field}", value) for field, value in WHOLE.items()))
    pod = cluster.read("pod", cluster.pod(uid))
    (container,) = pod["spec"]["containers"]
    for field in ("resourceClaims", "topologySpreadConstraints", "hostAliases", "securityContext"):
        assert contains(pod["spec"][field], WHOLE[field]), field
    assert pod["spec"]["terminationGracePeriodSeconds"] == 300
    assert pod["metadata"]["labels"]["cost-center"] == "research"
    assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert container["resources"]["requests"]["ephemeral-storage"] == "20Gi"
    assert container["envFrom"] == WHOLE["envFrom"]
    mounted = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert mounted == {"quantizer-scratch", "quantizer-certificates", *(v["name"] for v in VOLUMES)}


def test_defaults_are_used_told_and_changed_without_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "defaults.yaml"
    file.write_text(
        "template: {nodeSelector: {pool: a}, annotations: {owner: ml}}\n"
        "resourceClasses: {8b: {resources: {limits: {memory: 8Gi}}}}"
    )
    with cluster.operator(defaults_file=file) as running:
        first = cluster.read("pod", cluster.pod(cluster.submit("defaulted", ("resourceClass", "8b"))))
        assert first["spec"]["nodeSelector"] == {"pool": "a"}
        assert first["spec"]["containers"][0]["resources"]["limits"] == {"memory": "8Gi"}
        assert first["metadata"]["annotations"]["owner"] == "ml"
        assert set(cluster.phase("defaulted", "Pending")["defaults"].split(", ")) == {
            *("template.resources (resourceClass 8b)", "template.annotations", "template.nodeSelector")
        }
        file.write_text("template: {nodeSelectors: {pool: b}}")
        assert node_selector(cluster, "unbroken") == {"pool": "a"}
        assert running.metric("quantization_defaults_refused_total") == 1
        file.write_text("template: {nodeSelector: {pool: b}}")
        assert node_selector(cluster, "changed") == {"pool": "b"}
        cluster.submit("no-class", ("resourceClass", "8b"))
        failure = cluster.phase("no-class", "Failed")["failure"]
        assert "there is no class 8b here" in failure["message"]


def node_selector(cluster: Cluster, name: str) -> dict[str, str]:
    """Of the pod of a job that is submitted after the operator has looked at its file again."""
    time.sleep(LOOK_SECONDS + 0.5)
    chosen: dict[str, str] = cluster.read("pod", cluster.pod(cluster.submit(name)))["spec"]["nodeSelector"]
    return chosen


def contains(found: Any, wanted: Any) -> bool:
    """Whether a document has what another one has; the API server adds its defaults."""
    if isinstance(wanted, dict):
        return all(key in found and contains(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted)


def test_a_named_failure_ends_the_job_at_once(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("no-model")
    cluster.ends(cluster.pod(uid), 66, failed_result("ModelNotFound", "s3://models/stories15m is empty"))
    cluster.wait("no-model", "Stalled")
    status = cluster.status("no-model")
    assert status["phase"] == "Failed"
    assert status["failure"]["category"] == "ModelNotFound"
    assert status["failure"]["message"] == "s3://models/stories15m is empty."
    assert status["failure"]["hint"]
    assert status["failure"]["exitCode"] == 66
    assert cluster.jobs(uid), "the Job stays, with its pods and their logs"
    until("an event", lambda: "ModelNotFound" in cluster.events("no-model"))
    assert operator.metric(r'quantization_job_failures_total\{category="ModelNotFound"\}') == 1


def test_an_out_of_memory_kill_is_not_tried_again(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("too-big")
    cluster.ends(cluster.pod(uid), 137, reason="OOMKilled")
    cluster.wait("too-big", "Stalled")
    assert cluster.status("too-big")["failure"]["category"] == "HostOutOfMemory"
    until("the Job is gone", lambda: not cluster.jobs(uid))


def test_a_failed_job_that_is_corrected_starts_again(cluster: Cluster, operator: Operator) -> None:
    """As its hint says; then by the annotation, with nothing changed; and a success stays one."""
    uid = cluster.submit("corrected", ("backoffLimit", 0))
    cluster.ends(cluster.pod(uid), 137, reason="OOMKilled")
    assert cluster.phase("corrected", "Failed")["failure"]["category"] == "HostOutOfMemory"
    cluster.submit("corrected", ("backoffLimit", 0), ("template.resources", {"limits": {"memory": "64Gi"}}))
    cluster.phase("corrected", "Pending")
    second = cluster.pod(uid)
    limits = cluster.read("pod", second)["spec"]["containers"][0]["resources"]["limits"]
    assert limits["memory"] == "64Gi"
    cluster.ends(second, 75, failed_result("StorageUnavailable", "no answer"))
    status = cluster.phase("corrected", "Failed")
    assert (status["attempts"]["failed"], status["restarts"]) == (1, 1), "attempts count from the correction"
    assert status["failure"]["message"] == "no answer."
    retry(cluster, "corrected", "1")
    cluster.succeeds(cluster.pod(uid, besides=second))
    cluster.phase("corrected", "Succeeded")
    retry(cluster, "corrected", "2")
    until("it is told", lambda: "ChangeIgnored" in cluster.events("corrected"))
    assert cluster.status("corrected")["phase"] == "Succeeded"
    assert cluster.events("corrected").count("StartingAgain") == 2


def retry(cluster: Cluster, name: str, value: str) -> None:
    """As docs/failures.md says."""
    word = f"quantization.dev/retry={value}"
    cluster.api.kubectl("annotate", "qj", name, word, "--overwrite", "-n", NAMESPACE)


def test_a_failure_that_may_heal_is_tried_again_until_the_limit(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("storage-down", ("backoffLimit", 1))
    first = cluster.pod(uid)
    cluster.ends(first, 75, failed_result("StorageUnavailable", "no answer"))
    until("an attempt", lambda: cluster.status("storage-down").get("attempts", {}).get("failed") == 1)
    assert cluster.status("storage-down")["phase"] == "Pending"
    cluster.ends(cluster.pod(uid, besides=first), 75, failed_result("StorageUnavailable", "no answer"))
    cluster.wait("storage-down", "Stalled")
    failure = cluster.status("storage-down")["failure"]
    assert failure["category"] == "StorageUnavailable"
    assert failure["message"] == "2 attempts failed; the last one: no answer."


def test_an_image_that_cannot_be_pulled_ends_the_job_when_patience_does(
    cluster: Cluster, operator: Operator
) -> None:
    uid = cluster.submit("no-image", ("template.image", "localhost:5000/none:1"))
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "localhost:5000/none:1: not found"}}
    cluster.kubelet_says(cluster.pod(uid), "Pending", waiting)
    cluster.wait("no-image", "Stalled")
    failure = cluster.status("no-image")["failure"]
    assert failure["category"] == "ImagePullFailed"
    assert "not found" in failure["message"]
    until("nothing lingers", lambda: not cluster.jobs(uid))


def test_a_missing_secret_is_access_denied(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("no-secret")
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}}
    cluster.kubelet_says(cluster.pod(uid), "Pending", waiting)
    cluster.wait("no-secret", "Stalled")
    assert cluster.status("no-secret")["failure"]["category"] == "AccessDenied"


def evict(cluster: Cluster, pod: str, ended: datetime) -> None:
    disrupted = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    state = {"exitCode": 143, "reason": "Error", "finishedAt": rfc3339(ended)}
    cluster.kubelet_says(pod, "Failed", {"terminated": state}, conditions=[disrupted])


def test_a_disruption_is_not_counted(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("evicted")
    first = cluster.pod(uid)
    evict(cluster, first, ended=datetime.now(UTC))
    second = cluster.pod(uid, besides=first)
    until("it is told", lambda: cluster.status("evicted").get("attempts", {}).get("disrupted") == 1)
    assert cluster.status("evicted")["attempts"]["failed"] == 0
    cluster.succeeds(second)
    cluster.wait("evicted", "Ready")


@contextmanager
def no_pods(cluster: Cluster) -> Iterator[None]:
    """A quota that refuses every pod, until the block ends."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": "0"}},
    }
    cluster.apply(quota)
    try:
        until("quota", lambda: cluster.read("resourcequota", "none").get("status", {}).get("hard"))
        yield
    finally:
        cluster.api.kubectl("delete", "resourcequota", "none", "-n", NAMESPACE)


def refused(cluster: Cluster, name: str) -> str:
    """What the status of a job says whose pod is refused, once it does."""

    def message() -> str:
        conditions = {c["type"]: c for c in cluster.status(name).get("conditions", [])}
        waits = conditions.get("Reconciling", {"reason": ""})
        return str(waits["message"]) if waits["reason"] == "PodRefused" else ""

    return until("the refusal", message)


def test_a_refused_pod_is_shown_with_the_reason(cluster: Cluster, operator: Operator) -> None:
    with no_pods(cluster):
        uid = cluster.submit("over-quota")
        assert "exceeded quota" in refused(cluster, "over-quota")
        assert cluster.jobs(uid)
    cluster.api.kubectl("delete", "qj", "over-quota", "-n", NAMESPACE)
    until("garbage is collected", lambda: not cluster.jobs(uid))


def test_a_refused_pod_after_an_eviction_is_shown_with_the_reason(
    cluster: Cluster, operator: Operator
) -> None:
    uid = cluster.submit("refused-later")
    pod = cluster.pod(uid)
    cluster.phase("refused-later", "Pending")
    with no_pods(cluster):
        evict(cluster, pod, ended=datetime.now(UTC) - timedelta(seconds=NEXT_POD_SECONDS - 4))
        message = refused(cluster, "refused-later")
        assert "exceeded quota" in message
        assert "raise the namespace's ResourceQuota" in message
        assert cluster.status("refused-later")["attempts"] == {"failed": 0, "disrupted": 1}
    cluster.api.kubectl("delete", "qj", "refused-later", "-n", NAMESPACE)


def test_a_job_deleted_by_hand_is_named(cluster: Cluster, operator: Operator) -> None:
    uid = cluster.submit("by-hand")
    cluster.phase("by-hand", "Pending")
    cluster.api.kubectl("delete", "job", job_name("by-hand", uid), "-n", NAMESPACE)
    cluster.wait("by-hand", "Stalled")
    assert cluster.status("by-hand")["failure"]["category"] == "JobDeleted"


def test_a_deadline_is_the_jobs_own(cluster: Cluster, operator: Operator) -> None:
    cluster.submit("late", ("activeDeadlineSeconds", 1))
    cluster.wait("late", "Stalled")
    assert cluster.status("late")["failure"]["category"] == "DeadlineExceeded"


def test_a_template_that_makes_no_valid_job_is_refused(cluster: Cluster, operator: Operator) -> None:
    more_than_its_limit = {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}
    cluster.submit("bad-template", ("template.resources", more_than_its_limit))
    cluster.wait("bad-template", "Stalled")
    failure = cluster.status("bad-template")["failure"]
    assert failure["category"] == "InvalidWorkflow"
    assert "template" in failure["hint"]


def test_the_operator_killed_at_any_moment_goes_on_with_one_job(cluster: Cluster) -> None:
    with cluster.operator():
        uid = cluster.submit("restarted")
        pod = cluster.pod(uid)
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    cluster.kubelet_says(pod, "Running", running)
    with cluster.operator():
        cluster.phase("restarted", "Running")
    cluster.succeeds(pod)
    second = cluster.submit("while-away")
    with cluster.operator():
        cluster.wait("restarted", "Ready")
        cluster.pod(second)
    assert len(cluster.jobs(uid)) == 1
    cluster.api.kubectl("delete", "qj", "while-away", "-n", NAMESPACE)


def test_a_job_made_before_its_status_was_written_is_adopted(cluster: Cluster) -> None:
    with cluster.operator():
        uid = cluster.submit("adopted")
        cluster.phase("adopted", "Pending")
    (made,) = cluster.jobs(uid)
    forget = json.dumps({"status": None})
    cluster.api.kubectl(
        "patch", "qj", "adopted", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", forget
    )
    assert not cluster.status("adopted")
    with cluster.operator():
        cluster.phase("adopted", "Pending")
    assert [job["metadata"]["uid"] for job in cluster.jobs(uid)] == [made["metadata"]["uid"]]


def test_a_job_of_somebody_else_with_the_name_is_left_alone(cluster: Cluster) -> None:
    uid = cluster.submit("taken")
    foreign = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job_name("taken", uid), "namespace": NAMESPACE},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}},
        },
    }
    cluster.apply(foreign)
    with cluster.operator():
        cluster.wait("taken", "Stalled")
    assert cluster.status("taken")["failure"]["category"] == "Internal"
    assert cluster.read("job", job_name("taken", uid))["spec"]["suspend"] is True


def test_it_asks_for_nothing_that_it_may_not_and_logs_json(cluster: Cluster) -> None:
    with cluster.operator() as operator:
        cluster.submit("quiet")
        cluster.phase("quiet", "Pending")
        assert operator.metric(r'quantization_api_requests_total\{code="403"') == 0
        assert operator.get("/healthz") == (200, "ok\n")
        operator.process.send_signal(signal.SIGTERM)
        assert operator.process.wait(30) == 0
        assert not [line for line in operator.log if line["level"] in ("warning", "error")]


def test_without_the_definition_it_says_so_and_ends() -> None:
    with ApiServer() as api:
        environment = {
            **os.environ,
            "KUBECONFIG": str(api.kubeconfig),
            "QUANTIZATION_OPERATOR_HTTP_PORT": "0",
        }
        command = [sys.executable, "-m", "quantization_operator"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "is the CustomResourceDefinition installed?" in done.stderr
