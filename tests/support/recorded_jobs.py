"""A QuantizationJob in each phase, as a real API server had it after the operator wrote its status.

`python -m tests.support.recorded_jobs` records them anew: an API server and its controllers run, the operator with its
own permissions decides and writes, and this module plays the user, the kubelet and a queue. What differs from run to
run (times, uids, random parts of names) is made the same. `tests/integration/test_recorded_jobs.py` compares.
"""

import http.server
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import yaml
from tests.support.cluster_objects import JOB_UID, failed_result
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import until

from local_cluster.control_plane import ApiServer
from quantization_api.status import Phase

FOLDER = Path(__file__).parents[1] / "unit/operator/recorded_jobs"
PHASES: tuple[Phase, ...] = get_args(Phase)
QUEUE = "kueue.x-k8s.io/queue-name"
RUNS = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
POD_ADDRESS = "127.83.17.7"
PROGRESS = {"percent": 40, "stage": "quantize", "layer": 2, "layers": 6, "etaSeconds": 90}
REST_SECONDS = 1.0
KEPT_METADATA = ("name", "namespace", "generation", "labels")

Body = dict[str, Any]


def recorded(phase: Phase) -> Body:
    """The object of a phase, as it was recorded."""
    body: Body = yaml.safe_load((FOLDER / f"{phase.lower()}.yaml").read_text())
    return body


def record(directory: Path) -> dict[Phase, Body]:
    """Record all phases now."""
    with ApiServer(controllers=True) as api, pod_that_tells():
        cluster = Cluster(api, directory)
        with cluster.operator():
            return {phase: _plain(cluster, _reach(cluster, phase)) for phase in PHASES}


@contextmanager
def pod_that_tells() -> Iterator[None]:
    """The progress page of the pod that runs."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(PROGRESS).encode())

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer((POD_ADDRESS, 8080), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _reach(cluster: Cluster, phase: Phase) -> str:
    """Bring a job into a phase; its name."""
    name = phase.lower()
    if phase == "Queued":
        _queued(cluster, name)
        return name
    uid = cluster.submit(name)
    pod = cluster.pod(uid)
    cluster.phase(name, "Pending")
    if phase == "Pending":
        return name
    _bind(cluster, pod)
    address = {"podIP": POD_ADDRESS, "podIPs": [{"ip": POD_ADDRESS}]} if phase == "Running" else {}
    cluster.kubelet_says(pod, "Running", RUNS, **address)
    cluster.phase(name, "Running")
    if phase == "Running":
        until("its progress", lambda: cluster.status(name).get("progress"))
    elif phase == "Suspended":
        cluster.api.kubectl(
            "patch", "qj", name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec": {"suspend": true}}'
        )
    elif phase == "Succeeded":
        cluster.succeeds(pod)
    else:
        cluster.ends(pod, 66, failed_result("ModelNotFound", "s3://models/stories15m is empty"))
    cluster.phase(name, phase)
    return name


def _queued(cluster: Cluster, name: str) -> None:
    """Its Job is suspended by its queue, which nobody has installed here."""
    uid = cluster.submit(name, labels={QUEUE: "team-queue"})
    (job,) = until("the Job", lambda: cluster.jobs(uid))
    job_name = job["metadata"]["name"]
    cluster.api.kubectl(
        "patch", "job", job_name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec": {"suspend": true}}'
    )
    cluster.phase(name, "Queued")


def _bind(cluster: Cluster, pod: str) -> None:
    """As the scheduler does."""
    metadata = {"name": pod, "namespace": NAMESPACE}
    target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
    cluster.api.kubectl("create", "-f", "-", stdin=yaml.safe_dump(binding))


def _plain(cluster: Cluster, name: str) -> Body:
    """The object when nothing changes any more, without its spec and what differs from run to run."""
    body = until("it rests", lambda: _rested(cluster, name))
    kept = {key: body["metadata"][key] for key in KEPT_METADATA if key in body["metadata"]}
    text = json.dumps(body | {"metadata": kept}, sort_keys=True)
    text = re.sub(rf"\b{name}-[0-9a-f]{{10}}\b", f"{name}-0123456789", text)
    text = re.sub(rf"\b({name}-0123456789)-[a-z0-9]{{5}}\b", r"\1-abcde", text)
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", JOB_UID, text)
    text = re.sub(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-01-01T00:00:00Z", text)
    plain: Body = json.loads(text)
    del plain["spec"]
    return plain


def _rested(cluster: Cluster, name: str) -> Body:
    """The object, {} when it has just changed."""
    before = cluster.read("qj", name)
    time.sleep(REST_SECONDS)
    now = cluster.read("qj", name)
    return now if now == before else {}


def main() -> None:
    """Write all phases into the folder."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for phase, body in record(Path(directory)).items():
            (FOLDER / f"{phase.lower()}.yaml").write_text(yaml.safe_dump(body, sort_keys=False, width=110))


if __name__ == "__main__":
    main()
