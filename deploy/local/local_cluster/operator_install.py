"""Installs the operator into a cluster, as a user would: `kubectl apply -k`, with the images' names on top."""

from pathlib import Path

from local_cluster import images, kustomization
from local_cluster.errors import ClusterError
from local_cluster.installed import Installed
from local_cluster.progress import Progress
from local_cluster.target import Target
from local_cluster.waiting import until

NAMESPACE = "quantization-system"
NAME = "quantization-operator"
METRICS_PORT = 8081
_LOCAL_IMAGE = "localhost:5000/quantization-operator"
_BASE_IMAGE = "quantization-operator"


def install(
    target: Target,
    directory: Path,
    operator: str,
    quantizer: str,
    progress: Progress,
    local: bool = True,
    legacy: str | None = None,
) -> None:
    """Apply the CRD and the operator, and wait until it is ready.

    Args:
        target: the cluster.
        directory: where the kustomization that is applied is written, for people to read.
        operator: the operator's image, by digest or tag.
        quantizer: the image that jobs get when they name none.
        progress: who is told.
        local: take the overlay of the local cluster, else kind and operator as they are.
        legacy: the image of the stock packages, where it was built.

    Raises:
        ClusterError: the operator does not become ready, or an earlier removal of it does not end.
    """
    wait_for_earlier_removal(target, progress)
    parts = ("deploy/overlays/local",) if local else ("deploy/crd", "deploy/base")
    settings = {"QUANTIZATION_OPERATOR_QUANTIZER_IMAGE": quantizer}
    if legacy is not None:
        settings["QUANTIZATION_OPERATOR_LEGACY_IMAGE"] = legacy
    kustomization.write(
        directory,
        [images.ROOT / part for part in parts],
        {_LOCAL_IMAGE if local else _BASE_IMAGE: operator},
        {NAME: settings},
        NAMESPACE,
    )
    with progress.step(f"Installing the operator: kubectl apply --server-side -k {directory}"):
        kubectl = target.kubectl
        kubectl("apply", "--server-side", "--force-conflicts", "-k", directory)
        kubectl(
            "wait", "--for=condition=Established", "crd/quantizationjobs.quantization.dev", "--timeout=60s"
        )
        kubectl("--namespace", NAMESPACE, "rollout", "status", f"deployment/{NAME}", "--timeout=180s")


def wait_for_earlier_removal(target: Target, progress: Progress, limit: float = 30) -> None:
    """What is applied to a kind or a namespace that is going away goes with it, though kubectl says that it is there.

    Raises:
        ClusterError: it is not gone within `limit` seconds.
    """
    installed = Installed(target.kubectl)

    def leaving() -> list[str]:
        found = [*filter(None, [installed.definition()]), *installed.namespaces()]
        return [each["metadata"]["name"] for each in found if "deletionTimestamp" in each["metadata"]]

    if not leaving():
        return
    with progress.step("Waiting for the end of an earlier removal"):
        try:
            until(lambda: not leaving(), "", limit, interval=0.5)
        except ClusterError:
            raise ClusterError(
                f"{' and '.join(leaving())} is being deleted and does not go: something in it waits for an operator "
                "that is gone. `make uninstall JOBS=delete` ends that, and says which artifacts are left"
            ) from None


def leader_metrics(target: Target) -> str:
    """The metrics of the replica that leads: the others have decided nothing, and the Service chooses any.

    Raises:
        ClusterError: no replica leads.
    """
    label = f"app.kubernetes.io/name={NAME}"
    pods = target.kubectl("--namespace", NAMESPACE, "get", "pods", "-l", label, "-o", "name").stdout.split()
    for pod in pods:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.removeprefix('pod/')}:{METRICS_PORT}/proxy/metrics"
        page: str = target.kubectl("get", "--raw", path, check=False).stdout
        if "\nquantization_is_leader 1.0" in page:
            return page
    raise ClusterError(f"none of the {len(pods)} replicas of the operator leads")
