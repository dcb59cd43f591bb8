"""A real API server with the operator's base installed, and what a kubelet and a user do to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from tests.support.api_client import Client, RefusedError
from tests.support.cluster_objects import message_of
from tests.support.manifests import manifest
from tests.support.operator_process import (
    Operator,
    install,
    make_namespace,
    service_account_kubeconfig,
    until,
)

from local_cluster.control_plane import ApiServer

NAMESPACE = "team"
APIS = {"job": "/apis/batch/v1", "qj": "/apis/quantization.dev/v1alpha1"}
"""Of the kinds that are not of the core; tests read hundreds of times, and a kubectl takes longer than all else."""
PLURALS = {"qj": "quantizationjobs"}


class Cluster:
    """The API server with the operator's base, and what a kubelet and a user do."""

    def __init__(
        self, api: ApiServer, directory: Path, install: Callable[[ApiServer], None] = install
    ) -> None:
        self.api = api
        install(api)
        self.client = Client(api.kubeconfig)
        self._standing: Operator | None = None
        self.kubeconfig = service_account_kubeconfig(api, directory / "operator.kubeconfig")
        self.log = directory / "operator.log"
        make_namespace(api, NAMESPACE, **{"pod-security.kubernetes.io/enforce": "restricted"})

    def operator(self, **settings: object) -> Operator:
        """An operator of a test's own, in place of the standing one."""
        self.close()
        return Operator(self.kubeconfig, self.log, **settings)

    def standing_operator(self, **settings: object) -> Operator:
        """The operator of all tests that leave it as it is, and count nothing; it takes seconds to start."""
        if self._standing is None or self._standing.process.poll() is not None:
            self._standing = self.operator(**settings).__enter__()
        return self._standing

    def close(self) -> None:
        """End the standing operator."""
        if self._standing is not None:
            self._standing.__exit__(None, None, None)
            self._standing = None

    def apply(self, body: dict[str, Any]) -> None:
        self.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))

    def submit(self, name: str, *changes: tuple[str, Any], labels: dict[str, str] | None = None) -> str:
        """Apply a job, with an output of its own unless the changes name one; its uid."""
        body = manifest(("output.uri", f"s3://artifacts/{name}"), *changes)
        body["metadata"] |= {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
        self.apply(body)
        uid: str = self.read("qj", name)["metadata"]["uid"]
        return uid

    def create(self, name: str, *changes: tuple[str, Any]) -> str:
        """As `submit`, of a job that is not there yet, and in a tenth of the time: for many."""
        body = manifest(("output.uri", f"s3://artifacts/{name}"), *changes)
        body["metadata"] |= {"name": name, "namespace": NAMESPACE}
        uid: str = self.client.send("POST", place("qj"), body)["metadata"]["uid"]
        return uid

    def patch(self, kind: str, name: str, body: dict[str, Any], of: str = "") -> None:
        """Merge a change into an object; of: its subresource."""
        merge = "application/merge-patch+json"
        self.client.send("PATCH", f"{place(kind)}/{name}{of}", body, content_type=merge)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object, and wait for nothing."""
        self.client.send("DELETE", f"{place(kind)}/{name}")

    def read(self, kind: str, name: str) -> dict[str, Any]:
        """An object, or {}."""
        try:
            return self.client.send("GET", f"{place(kind)}/{name}")
        except RefusedError as refused:
            if refused.status != 404:
                raise
            return {}

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        found = self.client.send("GET", f"{place(kind)}?{urlencode({'labelSelector': selector})}")
        items: list[dict[str, Any]] = found["items"]
        return items

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.read("qj", name).get("status") or {}
        return status

    def phase(self, name: str, wanted: str) -> dict[str, Any]:
        """Wait until a job is in a phase; its status."""
        until(f"{name} is {wanted}", lambda: self.status(name).get("phase") == wanted)
        return self.status(name)

    def wait(self, name: str, condition: str) -> None:
        self.api.kubectl(
            "wait", f"--for=condition={condition}", f"qj/{name}", "-n", NAMESPACE, "--timeout=60s"
        )

    def jobs(self, uid: str) -> list[dict[str, Any]]:
        return self.items("jobs", f"quantization.dev/job-uid={uid}")

    def pod(self, uid: str, besides: str = "") -> str:
        """Wait for a pod of a job; its name."""

        def living() -> str:
            pods = self.items("pods", f"quantization.dev/job-uid={uid}")
            return next((p["metadata"]["name"] for p in pods if p["metadata"]["name"] != besides), "")

        return until("a pod", living)

    def kubelet_says(self, pod: str, phase: str, state: dict[str, Any], **status: Any) -> None:
        container = {
            "name": "quantizer",
            "image": "quantizer:dev",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        self.patch(
            "pod", pod, {"status": {"phase": phase, "containerStatuses": [container], **status}}, "/status"
        )

    def ends(self, pod: str, exit_code: int, message: str = "", reason: str = "Error") -> None:
        state = {
            "exitCode": exit_code,
            "reason": "Completed" if exit_code == 0 else reason,
            "message": message,
        }
        times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self.kubelet_says(pod, phase, {"terminated": state | times})

    def succeeds(self, pod: str) -> None:
        """The quantizer of a pod ends with the result that it was asked for."""
        self.ends(pod, 0, message_of(self.read("pod", pod)))

    def events(self, name: str) -> list[str]:
        return [e["reason"] for e in self.items("events") if e["involvedObject"]["name"] == name]


def place(kind: str) -> str:
    """The path of a kind's objects in the namespace of the tests; kinds as kubectl takes them, in the plural or not."""
    one = kind.removesuffix("s")
    return f"{APIS.get(one, '/api/v1')}/namespaces/{NAMESPACE}/{PLURALS.get(one, f'{one}s')}"
