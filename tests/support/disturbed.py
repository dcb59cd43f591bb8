"""What happens to a job's pod on a real node, and how far the job is: for the tests of disruptions."""

import json
import time
from typing import Any

from local_cluster import cluster, processes
from local_cluster.following import condition
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import run

Document = dict[str, Any]


def ready(job: Document) -> Document:
    """The condition Ready of a job, {} before the first write."""
    found: Document = condition(job, "Ready") or {}
    return found


def pods(whole: Any, name: str) -> list[Document]:
    """The pods of a job, the newest last."""
    items: list[Document] = whole.get("pods", "--selector", f"quantization.dev/job-name={name}")["items"]
    return sorted(items, key=lambda pod: pod["metadata"]["creationTimestamp"])


def pod_that_works(whole: Any, name: str, layers: int, limit: float = 240.0) -> str:
    """Wait until the job's present pod has finished at least so many layers of the model; the pod's name."""
    deadline = time.monotonic() + limit
    while True:
        job = whole.get("quantizationjob", name)
        message = ready(job).get("message", "")
        progress = job.get("status", {}).get("progress", {})
        if job.get("status", {}).get("phase") == "Running" and progress.get("layer", 0) >= layers:
            for pod in pods(whole, name):
                if pod["metadata"]["name"] in message and "deletionTimestamp" not in pod["metadata"]:
                    return str(pod["metadata"]["name"])
        assert job.get("status", {}).get("phase") not in ("Succeeded", "Failed"), job["status"]
        assert time.monotonic() < deadline, f"{name} has not finished {layers} layers: {job.get('status')}"
        time.sleep(0.2)


def evict(whole: Any, pod: str) -> None:
    """As a drain or the cluster autoscaler does."""
    metadata = {"name": pod, "namespace": whole.namespace}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{whole.namespace}/pods/{pod}/eviction"
    whole.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(body))


def delete(whole: Any, pod: str) -> None:
    """As a person does."""
    whole.kubectl("delete", "pod", pod, "--wait=false")


def lose_node(settings: Settings, pod: Document) -> None:
    """As a power cut does: the kubelet says nothing any more, and the pod's process is gone."""
    processes.stop(settings, ["kubelet"])
    (container,) = pod["status"]["containerStatuses"]
    identity = container["containerID"].removeprefix("containerd://")
    ctr = ("ctr", "--address", settings.containerd_socket, "--namespace", "k8s.io")
    run(*ctr, "tasks", "kill", "--signal", "SIGKILL", identity)


def bring_node_back(settings: Settings) -> None:
    """Start the kubelet again, and prove with a pod that the node works."""
    progress = Progress()
    with cluster.exclusive(settings, progress):
        cluster.up(settings, progress)
