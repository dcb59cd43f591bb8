"""A pod that the scheduler makes room for: it asks for what is free on the node, and for the place of one job."""

import json
import re
from types import TracebackType
from typing import Any

Document = dict[str, Any]

NAME = "urgent"
BEYOND = 200
"""Thousandths of a CPU beyond what is free that the pod asks for: less than the job asks for."""


class Priorities:
    """Two PriorityClasses, and a pod of the higher one.

    The lower one is below that of every other pod, so that the scheduler takes the job's place and no server's.
    """

    low, high = "quantization-e2e-low", "quantization-e2e-high"

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    def __enter__(self) -> "Priorities":
        """Create the classes."""
        for name, value in ((self.low, -1000), (self.high, 1000)):
            self._apply(
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": value,
                }
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the pod and the classes."""
        self.leave_the_node()
        self._whole.target.kubectl("delete", "priorityclass", self.low, self.high, "--ignore-not-found")

    def take_the_node(self) -> None:
        """Create a pod that fits when one job's pod, and nothing else, goes."""
        container = {
            "name": "sleep",
            "image": self._whole.images["quantizer"],
            "command": ["sleep", "600"],
            "resources": {"requests": {"cpu": f"{self._free() + BEYOND}m"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        spec = {
            "priorityClassName": self.high,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        metadata = {"name": NAME, "namespace": self._whole.namespace}
        self._apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def runs(self) -> bool:
        """Whether the pod has the place."""
        return bool(self._whole.get("pod", NAME)["status"]["phase"] == "Running")

    def leave_the_node(self) -> None:
        """Remove the pod."""
        self._whole.kubectl("delete", "pod", NAME, "--ignore-not-found", "--timeout=60s")

    def _free(self) -> int:
        """Thousandths of a CPU that no pod on the node asks for."""
        name = self._whole.settings.node_name
        node = json.loads(self._whole.target.kubectl("get", "node", name, "--output", "json").stdout)
        pods = json.loads(
            self._whole.target.kubectl("get", "pods", "--all-namespaces", "--output", "json").stdout
        )
        asked = sum(
            milli(container.get("resources", {}).get("requests", {}).get("cpu", "0"))
            for pod in pods["items"]
            if pod["spec"].get("nodeName") and pod["status"]["phase"] not in ("Succeeded", "Failed")
            for container in pod["spec"]["containers"]
        )
        return milli(node["status"]["allocatable"]["cpu"]) - asked

    def _apply(self, document: Document) -> None:
        self._whole.target.kubectl("apply", "--filename", "-", stdin=json.dumps(document))


def milli(quantity: str) -> int:
    """A quantity of CPU in thousandths."""
    found = re.fullmatch(r"(\d+)(m?)", quantity)
    assert found, quantity
    return int(found[1]) * (1 if found[2] else 1000)
