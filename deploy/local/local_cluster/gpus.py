"""Pretended GPUs, so that manifests that ask for one can be tried on a machine without any."""

import json
from pathlib import Path

from local_cluster.kubectl import Kubectl
from local_cluster.settings import Settings

RESOURCE = "nvidia.com/gpu"


def _memory(settings: Settings) -> Path:
    return settings.state / "gpus"


def remembered(settings: Settings) -> int:
    """How many the last `up --gpus` asked for."""
    try:
        return int(_memory(settings).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def pretend(settings: Settings, kubectl: Kubectl, count: int) -> None:
    """Give the node `count` GPUs, or take them away when it is 0; the kubelet keeps what it does not manage itself."""
    _memory(settings).write_text(str(count))
    value = str(count) if count else None
    patch = {"status": {"capacity": {RESOURCE: value}, "allocatable": {RESOURCE: value}}}
    kubectl(
        "patch", "node", settings.node_name, "--subresource=status", "--type=merge", "-p", json.dumps(patch)
    )
