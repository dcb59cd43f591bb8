"""`top`: what running jobs need of memory and GPUs, as their pods say and as they may."""

import argparse
import re
import sys

from kubectl_quantization.cluster import QUANTIZERS, Cluster, Document, PluginError, table
from kubectl_quantization.shown import duration
from quantization_api.constants import CONTAINER_NAME, METRICS_PATH, PROGRESS_PORT

HEAD = ("POD", "NODE", "STAGE", "TIME", "PEAK MEMORY", "LIMIT", "GPUS", "PEAK GPU MEMORY")
JOB_LABEL = "quantization.dev/job-name"
SAMPLE = re.compile(r"^(?P<name>quantizer_\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
STAGE = re.compile(r'\bstage="([^"]*)"')
UNKNOWN = "?"


def top_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Shows every running pod; a pod that does not answer is shown with question marks."""
    where = ["--all-namespaces"] if options.all_namespaces else []
    pods = cluster.listing(
        "pods", f"--selector={QUANTIZERS}", "--field-selector=status.phase=Running", *where
    )
    chosen = [pod for pod in pods if options.name in (None, pod["metadata"]["labels"].get(JOB_LABEL))]
    if not chosen:
        print("No pod of a QuantizationJob runs here; -A shows those of all namespaces.", file=sys.stderr)
        return 0
    print("\n".join(table([HEAD, *(row(pod, _metrics(cluster, pod)) for pod in chosen)])))
    return 0


def row(pod: Document, metrics: str) -> list[str]:
    """A pod's line. metrics: what it serves for Prometheus; empty where it did not answer."""
    found = {each["name"]: each for each in SAMPLE.finditer(metrics)}
    stage = (
        STAGE.search(found["quantizer_run_info"]["labels"] or "") if "quantizer_run_info" in found else None
    )
    seconds = sum(
        float(each["value"]) for each in SAMPLE.finditer(metrics) if each["name"].endswith("seconds_total")
    )
    limits = _container(pod).get("resources", {}).get("limits", {})
    gpus = sum(int(count) for name, count in limits.items() if "/" in name)
    return [
        pod["metadata"]["name"],
        pod["spec"].get("nodeName", UNKNOWN),
        stage[1] if stage else UNKNOWN,
        duration(int(seconds)) if found else UNKNOWN,
        _bytes(found, "quantizer_peak_memory_bytes"),
        limits.get("memory", "none"),
        str(gpus),
        _bytes(found, "quantizer_gpu_peak_memory_bytes") if gpus else "-",
    ]


def _container(pod: Document) -> Document:
    found: Document = next(each for each in pod["spec"]["containers"] if each["name"] == CONTAINER_NAME)
    return found


def _bytes(found: dict[str, "re.Match[str]"], name: str) -> str:
    return f"{float(found[name]['value']) / 2**30:.1f} GiB" if name in found else UNKNOWN


def _metrics(cluster: Cluster, pod: Document) -> str:
    """What the pod serves, by way of the API server; "" where it does not answer, or may not be asked."""
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{PROGRESS_PORT}/proxy{METRICS_PATH}"
    try:
        return cluster.kubectl("get", "--raw", path)
    except PluginError as error:
        print(f"# {metadata['name']} does not answer: {error}", file=sys.stderr)
        return ""
