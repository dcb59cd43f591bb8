"""A search of two workers on a real API server and its Job controller; the test plays the kubelet."""

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.support.cluster_objects import FOUND, SEARCHED, failed_result, result_at
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import Operator, until
from tests.support.searches import BITS, NAMED_PASS, dimension, search

from local_cluster.control_plane import ApiServer
from quantization_operator.conditions import rfc3339
from quantization_operator.workload import job_name

pytestmark = pytest.mark.integration

GRID = (NAMED_PASS, search(BITS, dimension("group_size", 32, 64)), ("parallelism", 2))
INDEX = "batch.kubernetes.io/job-completion-index"
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
ADDRESSES = ("127.83.21.1", "127.83.21.2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ApiServer(controllers=True) as api:
        yield Cluster(api, tmp_path_factory.mktemp("operator"))


@pytest.fixture
def operator(cluster: Cluster) -> Iterator[Operator]:
    with cluster.operator() as running:
        yield running


@pytest.fixture
def pages() -> Iterator[None]:
    """What two workers say of their search: one has seen one point more than the other."""

    def page(done: int) -> type[http.server.BaseHTTPRequestHandler]:
        found = {"done": done, "total": 4, "best": f"q.bits=8: ppl {done}"}
        told = {"percent": 25 * done, "stage": "quantize", "search": found}

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(told).encode())

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Page

    servers = [
        http.server.ThreadingHTTPServer((address, 8080), page(n)) for n, address in enumerate(ADDRESSES, 1)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    for server in servers:
        server.shutdown()
        server.server_close()


def workers(cluster: Cluster, uid: str) -> dict[str, str]:
    """The living pods of a search, by their numbers."""
    pods = cluster.items("pods", f"quantization.dev/job-uid={uid}")
    return {
        pod["metadata"]["annotations"][INDEX]: pod["metadata"]["name"]
        for pod in pods
        if pod["status"]["phase"] in ("Pending", "Running")
    }


def message(cluster: Cluster, name: str) -> str:
    conditions = cluster.status(name).get("conditions", [])
    return next((str(c["message"]) for c in conditions if c["type"] == "Ready"), "")


def runs(cluster: Cluster, pod: str, address: str) -> None:
    cluster.kubelet_says(pod, "Running", RUNNING, podIP=address, podIPs=[{"ip": address}])


def publishes(cluster: Cluster, name: str, pod: str) -> None:
    """A worker ends with the result of the whole search."""
    made = result_at(f"s3://artifacts/{name}")
    told = made.model_copy(update={"trials": SEARCHED.trials, "search": SEARCHED.search})
    ended = {
        "exitCode": 0,
        "reason": "Completed",
        "message": told.to_message(),
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": rfc3339(datetime.now(UTC)),  # from then on the others have their time to end
    }
    cluster.kubelet_says(pod, "Succeeded", {"terminated": ended})


def test_a_search_goes_on_without_a_worker_and_ends_with_its_table(
    cluster: Cluster, operator: Operator, pages: None
) -> None:
    uid = cluster.submit("searched", *GRID)
    until("two workers", lambda: len(workers(cluster, uid)) == 2)
    first = workers(cluster, uid)
    assert set(first) == {"0", "1"}
    runs(cluster, first["0"], ADDRESSES[0])
    until("half of them", lambda: "1 of 2 workers run" in message(cluster, "searched"))
    runs(cluster, first["1"], ADDRESSES[1])
    cluster.phase("searched", "Running")
    until("the furthest speaks", lambda: cluster.status("searched").get("search", {}).get("shown") == "2/4")
    status = cluster.status("searched")
    assert status["search"]["best"] == "q.bits=8: ppl 2"
    assert status["progress"]["percent"] == 50
    columns = cluster.api.kubectl("get", "qj", "searched", "-n", NAMESPACE, "-o", "wide").stdout
    assert "2/4" in columns
    assert "q.bits=8: ppl 2" in columns

    cluster.ends(first["1"], 75, failed_result("StorageUnavailable", "no answer"))
    until("an attempt", lambda: cluster.status("searched").get("attempts", {}).get("failed") == 1)
    assert cluster.status("searched")["phase"] == "Running", "the other worker goes on"
    until("its successor", lambda: workers(cluster, uid).get("1", first["1"]) != first["1"])

    publishes(cluster, "searched", first["0"])
    until("it is told", lambda: message(cluster, "searched").startswith("the result is published"))
    publishes(cluster, "searched", workers(cluster, uid)["1"])
    cluster.wait("searched", "Ready")
    status = cluster.status("searched")
    assert status["phase"] == "Succeeded"
    assert status["search"] == FOUND.model_dump(exclude_none=True) | {"shown": "24/24"}
    assert [trial["best"] for trial in status["trials"]] == [True]
    assert "the best of 24 points is gptq.bits=4: ppl 10.2" in message(cluster, "searched")
    until("events", lambda: {"AttemptFailed", "Succeeded"} <= set(cluster.events("searched")))
    assert cluster.events("searched").count("Succeeded") == 1
    assert len(cluster.jobs(uid)) == 1


def test_a_worker_that_fails_for_good_ends_all_and_nobody_is_called_disrupted(
    cluster: Cluster, operator: Operator
) -> None:
    uid = cluster.submit("hopeless-search", *GRID)
    until("two workers", lambda: len(workers(cluster, uid)) == 2)
    pods = workers(cluster, uid)
    for pod in pods.values():
        cluster.kubelet_says(pod, "Running", RUNNING)
    cluster.phase("hopeless-search", "Running")
    cluster.ends(pods["0"], 66, failed_result("ModelNotFound", "s3://models/stories15m is empty"))
    job = job_name("hopeless-search", uid)
    until(
        "the Job gives up",
        lambda: any(
            c["type"] == "FailureTarget" for c in cluster.read("job", job)["status"].get("conditions", [])
        ),
    )
    cluster.wait("hopeless-search", "Stalled")
    status = cluster.status("hopeless-search")
    assert status["failure"]["category"] == "ModelNotFound"
    assert status["attempts"] == {"failed": 1, "disrupted": 0}


def test_a_search_with_a_long_name_has_pods(cluster: Cluster, operator: Operator) -> None:
    """A worker's host name is that of its Job and a number, and may have 63 characters."""
    uid = cluster.submit("x" * 60, *GRID)
    until("two workers", lambda: len(workers(cluster, uid)) == 2)
    cluster.api.kubectl("delete", "qj", "x" * 60, "-n", NAMESPACE)
