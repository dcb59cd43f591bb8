"""Tenants who attack the operator through objects that they may write: it stays ready, and the jobs of others run on.

Each attack is made on a running operator, and stays in the cluster when another one starts.
"""

import http.server
import ipaddress
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.attacks import (
    Tenant,
    a_forged_job,
    a_job,
    a_pod,
    forged_result,
    nested,
    with_deep_fields,
)
from tests.support.cluster_objects import RESULT, controlled_by, result_at
from tests.support.manifests import manifest
from tests.support.operator_cluster import Cluster
from tests.support.operator_process import Operator, until

from local_cluster.control_plane import ApiServer
from quantization_operator.snapshots import FAILED_BEFORE_ANNOTATION, GENERATION_ANNOTATION, QJOB_UID_LABEL
from quantization_operator.workload import job_name

pytestmark = pytest.mark.integration

RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
TIMES = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
MEMORY_MEGABYTES = 300
LARGE_OBJECTS = int(os.environ.get("LARGE_OBJECTS", "40"))
"""Of 1.3 MB each: read as whole pages they took 6 MB each."""
POD_ADDRESS = str(ipaddress.IPv4Address("127.84.0.1") + os.getpid() % 2**15)
EVIL_ADDRESS = str(ipaddress.IPv4Address("127.85.0.1") + os.getpid() % 2**15)
QUANTIZATION_JOBS = "/apis/quantization.dev/v1alpha1/namespaces/{}/quantizationjobs"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer(controllers=True) as api:
        yield Cluster(api, tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def evil(cluster: Cluster) -> Tenant:
    return Tenant(cluster.api, "evil")


def operator_of(cluster: Cluster) -> Operator:
    return cluster.operator(sweep_interval_seconds=5, sync_timeout_seconds=30, progress_interval_seconds=1)


def is_swept(operator: Operator) -> None:
    """A whole sweep, of three listings, was made since, and /healthz is content with it."""

    def gets() -> float:
        return operator.metric(r'quantization_api_requests_total\{code="200",verb="GET"\}')

    before = gets()
    until("a sweep", lambda: gets() >= before + 6)
    assert operator.get("/healthz") == (200, "ok\n")


def is_well(operator: Operator, cluster: Cluster, name: str) -> None:
    """It is ready, and a new job comes to its end."""
    pod = cluster.pod(cluster.submit(name))
    cluster.succeeds(pod)
    assert cluster.phase(name, "Succeeded")["artifact"]["uri"] == f"s3://artifacts/{name}"
    assert operator.get("/readyz")[0] == 200
    assert operator.get("/healthz") == (200, "ok\n")
    assert operator.process.poll() is None


def defects(operator: Operator) -> list[str]:
    """What it logged as an error; kopf also says so of each request that it tries again."""
    log = [line for line in operator.log if line["logger"].startswith("quantization_operator")]
    return [line["message"] for line in log if line.get("exception") or line["level"] == "error"]


def peak_megabytes(operator: Operator) -> int:
    status = Path(f"/proc/{operator.process.pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_objects_that_say_nonsense_stop_nothing(cluster: Cluster, evil: Tenant) -> None:
    with operator_of(cluster) as operator:
        pod = cluster.pod(cluster.submit("before-nonsense"))
        evil.create(a_pod("empty-uid", ""))
        evil.create(a_job("empty-uid", ""))
        evil.create(a_job("bad-generation", "abc", annotations={GENERATION_ANNOTATION: "abc"}))
        evil.create(a_job("bad-failed-before", "abc", annotations={FAILED_BEFORE_ANNOTATION: "1.5"}))
        evil.create(a_pod("relabelled", "abc"))
        path = "/api/v1/namespaces/evil/pods/relabelled"
        patch = {"metadata": {"labels": {QJOB_UID_LABEL: ""}}}
        assert evil.ask("PATCH", path, patch, "application/merge-patch+json")[0] == 200
        until("they are counted", lambda: operator.metric("quantization_unreadable_objects_total") == 3)
        is_swept(operator)
        is_well(operator, cluster, "beside-nonsense")
        cluster.succeeds(pod)
        cluster.phase("before-nonsense", "Succeeded")
        named = [line for line in operator.log if "is ignored" in line["message"]]
        assert len(named) == 3
        assert not defects(operator)
    with operator_of(cluster) as operator:
        is_swept(operator)
        is_well(operator, cluster, "after-nonsense")
        assert operator.metric("quantization_unreadable_objects_total") == 3


@pytest.fixture
def open_schema(cluster: Cluster) -> Iterator[None]:
    """The schema of a release that bounded nothing; then the real one again, and nothing of what was stored."""
    crd = cluster.api.kubectl("get", "crd", "quantizationjobs.quantization.dev", "-o", "json").stdout
    body: dict[str, Any] = json.loads(crd)
    for key in ("status", "metadata"):
        kept = body.pop(key)
    body["metadata"] = {"name": kept["name"]}
    opened = json.loads(json.dumps(body))
    for version in opened["spec"]["versions"]:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version["schema"] = {"openAPIV3Schema": anything | {"properties": {"status": anything}}}
    cluster.api.kubectl("replace", "-f", "-", stdin=json.dumps(opened))
    yield
    cluster.api.kubectl("delete", "--raw", QUANTIZATION_JOBS.format("evil"))
    cluster.api.kubectl("replace", "-f", "-", stdin=json.dumps(body))


def a_request(name: str, **spec: Any) -> dict[str, Any]:
    body = manifest(("output.uri", f"s3://evil/{name}"))
    body["metadata"] = {"name": name, "namespace": "evil"}
    body["spec"] |= spec
    return body


def accepted(evil: Tenant, body: dict[str, Any]) -> bool:
    return evil.ask("POST", QUANTIZATION_JOBS.format("evil"), body)[0] == 201


def deep_request(name: str, levels: int) -> str:
    body = a_request(name, template={"affinity": "DEEP"})
    return json.dumps(body).replace('"DEEP"', nested(levels))


@pytest.mark.nightly
@pytest.mark.usefixtures("open_schema")
def test_deep_and_large_objects_cost_only_themselves(cluster: Cluster, evil: Tenant) -> None:
    many = {f"label-{number}": "x" * 60 for number in range(17_000)}

    def create_large(number: int) -> None:
        body = a_request(f"large-{number}", suspend=True)
        if number % 2:
            body["metadata"]["labels"] = many
        else:
            body["spec"]["template"] = {"affinity": {"nodeAffinity": {"x": "y" * 1_300_000}}}
        evil.create(body, "QuantizationJob")

    with operator_of(cluster) as operator:
        until(
            "the open schema is served",
            lambda: evil.ask("POST", QUANTIZATION_JOBS.format("evil"), a_request("x", y=1))[0] == 201,
        )
        for levels in (300, 1200):
            evil.create(with_deep_fields(a_pod(f"deep-{levels}", "abc"), levels), "Pod")
            evil.create(deep_request(f"deep-{levels}", levels), "QuantizationJob")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(create_large, range(LARGE_OBJECTS)))
        for levels in (300, 1200):
            until(
                "it is refused", lambda name=f"deep-{levels}": told_of(cluster, name).get("phase") == "Failed"
            )
            failure = told_of(cluster, f"deep-{levels}")["failure"]
            assert failure["category"] == "InvalidWorkflow"
            assert "nested" in failure["message"]
        is_swept(operator)
        is_well(operator, cluster, "beside-the-deep")
        first = peak_megabytes(operator)
        assert first < MEMORY_MEGABYTES
    with operator_of(cluster) as operator:
        is_swept(operator)
        is_well(operator, cluster, "after-the-deep")
        print("peak in MB:", first, peak_megabytes(operator))
        assert peak_megabytes(operator) < MEMORY_MEGABYTES
        assert not defects(operator)


def told_of(cluster: Cluster, name: str) -> dict[str, Any]:
    path = "jsonpath={.status}"
    said = cluster.api.kubectl("get", "qj", name, "-n", "evil", "-o", path).stdout
    found: dict[str, Any] = json.loads(said or "{}")
    return found


def complete(evil: Tenant, name: str) -> None:
    """What the tenant's own Job and pod tell: that they have succeeded."""
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "message": forged_result()} | TIMES}
    container = {
        "name": "quantizer",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": ended,
    }
    evil.status("Pod", name, {"phase": "Succeeded", "containerStatuses": [container]})


def test_nothing_of_another_namespace_is_believed(cluster: Cluster, evil: Tenant) -> None:
    with operator_of(cluster) as operator:
        uid = cluster.submit("victim")
        own_pod = cluster.pod(uid)
        (own,) = cluster.jobs(uid)
        name = job_name("victim", uid)
        paused = cluster.submit("victim-paused", ("suspend", True))
        for victim, victim_uid in (("victim", uid), ("victim-paused", paused)):
            made = json.loads(until("the forged Job", lambda v=victim, u=victim_uid: forge(evil, v, u)))
            # else the garbage collector takes what has no owner in its namespace
            held = {"finalizers": ["evil.example/hold"]}
            owners = controlled_by("Job", made["name"], made["uid"])
            evil.create(a_pod(f"forged-{victim}", victim_uid, ownerReferences=owners, **held))
            complete(evil, f"forged-{victim}")
            owners = controlled_by("Job", name, own["metadata"]["uid"])
            evil.create(a_pod(f"named-{victim}", victim_uid, ownerReferences=owners, **held))
            complete(evil, f"named-{victim}")
        cluster.kubelet_says(own_pod, "Running", RUNS)
        cluster.phase("victim", "Running")
        is_well(operator, cluster, "beside-the-forged")
        assert cluster.status("victim-paused")["phase"] == "Suspended"
    with operator_of(cluster) as operator:
        is_swept(operator)
        is_well(operator, cluster, "after-the-forged")
        assert cluster.status("victim")["phase"] == "Running"
        assert cluster.read("job", name)["metadata"]["uid"] == own["metadata"]["uid"]
        cluster.succeeds(own_pod)
        status = cluster.phase("victim", "Succeeded")
        assert status["artifact"]["uri"] == "s3://artifacts/victim"
        assert status["jobUid"] == own["metadata"]["uid"]
        assert not defects(operator)


def forge(evil: Tenant, victim: str, uid: str) -> str:
    body = a_forged_job(job_name(victim, uid), victim, uid)
    evil.create(body)
    found = evil.api.kubectl("get", "job", body["metadata"]["name"], "-n", "evil", "-o", "json").stdout
    metadata: str = json.dumps(json.loads(found)["metadata"])
    return metadata


class Page(http.server.BaseHTTPRequestHandler):
    """A pod's page of progress; by the address that was asked."""

    told: bytes = b"{}"

    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(Page.told)))
        self.end_headers()
        self.wfile.write(Page.told)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def pages() -> Iterator[dict[str, http.server.ThreadingHTTPServer]]:
    servers = {
        address: http.server.ThreadingHTTPServer((address, 8080), Page)
        for address in (POD_ADDRESS, EVIL_ADDRESS)
    }
    for server in servers.values():
        server.asked = 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers.values():
        server.shutdown()
        server.server_close()


def test_progress_is_asked_of_the_own_pod_only_and_nothing_in_it_blocks_the_end(
    cluster: Cluster, evil: Tenant, pages: dict[str, Any]
) -> None:
    Page.told = b'{"percent": 99, "layer": 1' + b"0" * 30 + b"}"
    with operator_of(cluster) as operator:
        uid = cluster.submit("poisoned")
        pod = cluster.pod(uid)
        evil.create(a_pod("poison", uid))
        address = {"podIP": EVIL_ADDRESS, "podIPs": [{"ip": EVIL_ADDRESS}]}
        container = {
            "name": "quantizer",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": RUNS,
        }
        evil.status("Pod", "poison", {"phase": "Running", "containerStatuses": [container], **address})
        cluster.kubelet_says(pod, "Running", RUNS, podIP=POD_ADDRESS, podIPs=[{"ip": POD_ADDRESS}])
        until("the own pod is asked a few times", lambda: pages[POD_ADDRESS].asked >= 3)
        refused = [line for line in operator.log if "is ignored: layer" in line["message"]]
        assert len(refused) == 1
        assert "progress" not in cluster.status("poisoned")
        Page.told = json.dumps({"percent": 12, "stage": "FORGED\nline2 \x1b[31mred"}).encode()
        until("its progress is told", lambda: cluster.status("poisoned").get("progress"))
        assert cluster.status("poisoned")["progress"]["stage"] == "FORGED | line2 red"
        assert pages[EVIL_ADDRESS].asked == 0
        cluster.succeeds(pod)
        cluster.phase("poisoned", "Succeeded")
        assert not defects(operator)


MESSAGES = {
    "size-huge": result_at("s3://artifacts/size-huge").to_message().replace("8000000", "1" + "0" * 30),
    "ratio-infinite": result_at("s3://artifacts/ratio-infinite").to_message().replace("3.7", "Infinity"),
    "metric-nan": result_at("s3://artifacts/metric-nan").to_message().replace("10.2", "NaN"),
    "other-uri": RESULT.to_message(),
    "deep": "[" * 4000,
    "control": '{"failure":{"category":"Internal","message":"a\\u0000b\\u001b[31mred\\nline2"}}',
    "surrogate": '{"failure":{"category":"Internal","message":"a\\ud800b"}}',
}


def test_whatever_a_pod_leaves_its_job_ends_and_says_why_in_one_line(cluster: Cluster) -> None:
    with operator_of(cluster) as operator:
        pods = {name: cluster.pod(cluster.submit(name)) for name in MESSAGES}
        for name, pod in pods.items():
            cluster.ends(pod, 70 if "failure" in MESSAGES[name] else 0, MESSAGES[name])
        for name in MESSAGES:
            if name in ("control", "surrogate"):  # such a failure is tried again
                until("it is told", lambda name=name: cluster.status(name).get("attempts"))
                continue
            failure = cluster.phase(name, "Failed")["failure"]
            assert failure["message"].isprintable()
            assert "artifact" not in cluster.status(name)
        told = json.dumps([cluster.status(name) for name in MESSAGES] + cluster.items("events"))
        assert "\\u001b" not in told
        assert not defects(operator)


def test_a_status_that_a_tenant_wrote_stops_nobody(cluster: Cluster, evil: Tenant) -> None:
    with operator_of(cluster) as operator:
        evil.create(a_request("own-status"), "QuantizationJob")
        real = until("it has its Job", lambda: told_of(cluster, "own-status").get("jobUid"))
        hostile = {
            "startTime": "0000-01-01T00:00:00Z",
            "completionTime": "9999-12-31T23:59:59Z",
            "jobUid": "another",
            "passes": "x" * 200,
            "attempts": {"failed": 2**53 - 1, "disrupted": 2**53 - 1},
        }
        evil.status("QuantizationJob", "own-status", hostile)
        until("the Job is named again", lambda: told_of(cluster, "own-status").get("jobUid") == real)
        is_well(operator, cluster, "beside-the-status")
        assert not defects(operator)


@pytest.mark.nightly
def test_hundreds_of_deletions_at_once_are_no_dead_watch(cluster: Cluster, evil: Tenant) -> None:
    with operator_of(cluster) as operator:
        with ThreadPoolExecutor(8) as threads:
            bodies = [a_request(f"many-{number}", suspend=True) for number in range(270)]
            assert all(threads.map(lambda body: accepted(evil, body), bodies))
        until(
            "all are known",
            lambda: operator.metric(r'quantization_jobs\{namespace="evil",phase="Suspended"') >= 270,
        )
        cluster.api.kubectl("delete", "--raw", QUANTIZATION_JOBS.format("evil"))
        complaints = set()

        def gone() -> bool:
            complaints.add(operator.complaint())
            return operator.metric(r'quantization_jobs\{namespace="evil"') == 0

        until("all are gone", gone)
        is_swept(operator)
        is_well(operator, cluster, "beside-the-deletions")
        assert complaints == {""}
        assert not defects(operator)
