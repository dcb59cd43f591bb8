"""Proves that the cluster works by letting a pod do what pods do: after a restart a node's "Ready" may be stale."""

import json
from datetime import datetime
from string import Template

from local_cluster.errors import ClusterError
from local_cluster.kubectl import Kubectl
from local_cluster.probing import Probe
from local_cluster.settings import Settings
from local_cluster.waiting import until

_LABEL = "quantization.dev/part-of=cluster-proof"


def node_is_fresh(probe: Probe, settings: Settings, since: datetime) -> bool:
    """Whether the node is Ready and the kubelet has renewed its lease after `since`."""
    lease = probe.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{settings.node_name}")
    node = probe.get(f"/api/v1/nodes/{settings.node_name}")
    return bool(lease and node) and lease_renewed(lease, since) and condition(node, "Ready") == "True"


def lease_renewed(lease: bytes | None, since: datetime) -> bool:
    """Whether a lease, as the API server's JSON, was renewed after a moment."""
    renewed = json.loads(lease or b"{}").get("spec", {}).get("renewTime")
    return renewed is not None and datetime.fromisoformat(renewed) > since


def condition(document: bytes | None, kind: str) -> str | None:
    """The status (`True`, `False`, `Unknown`) of one condition of an object, as the API server's JSON."""
    conditions = json.loads(document or b"{}").get("status", {}).get("conditions", [])
    return next((each["status"] for each in conditions if each["type"] == kind), None)


def run_proof(kubectl: Kubectl, probe: Probe, settings: Settings, image: str) -> None:
    """Run a pod that finds the API server by name and connects to it; it is removed afterwards.

    Raises:
        ClusterError: it did not succeed within 90 s; the message carries what the pod's status and events say.
    """
    _remove(kubectl)  # an interrupted `up` may have left one
    manifest = Template((settings.manifests / "proof.yaml").read_text()).substitute(IMAGE=image)
    name = kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=manifest).stdout
    path = f"/api/v1/namespaces/kube-system/pods/{name}"

    def succeeded() -> bool:
        phase: str = json.loads(probe.get(path) or b"{}").get("status", {}).get("phase", "")
        return phase == "Succeeded"

    try:
        until(succeeded, "the first pod", limit=90, interval=0.1)
    except ClusterError as error:
        said = kubectl("-n", "kube-system", "describe", "pod", name, check=False).stdout
        tail = "\n".join(said.splitlines()[-12:])
        raise ClusterError(
            f"{error}: it should reach the API server by name, and did not:\n{tail}"
        ) from error
    finally:
        _remove(kubectl)


def _remove(kubectl: Kubectl) -> None:
    kubectl(
        "-n",
        "kube-system",
        "delete",
        "pods",
        "-l",
        _LABEL,
        "--grace-period=0",
        "--force",
        "--wait=false",
        check=False,
    )
