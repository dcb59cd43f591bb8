"""KWOK plays the nodes and the kubelets: a pod runs for a while, and ends as the quantizer's pods do, with a result.

The stages are the whole story of a healthy pod: Pending, Running, Succeeded with a termination message of the pod
contract. They are ours: KWOK's own fast ones know no termination message.
"""

from pathlib import Path
from typing import Any

import yaml
from tests.support.api_client import Client
from tests.support.cluster_objects import result_at

from quantization_operator.workload import QJOB_NAME_LABEL

NODES = tuple(f"kwok-{number}" for number in range(10))
"""Each is played by a process of its own. KWOK 0.8.0 asks for all pods again whenever a watch is renewed, which is at
some moment between 5 and 10 minutes, and goes through them one by one. One process for all nodes fell so far behind
then, with 8,000 pods, that the rest of the run was about KWOK. They are small, so that the scheduler sees which has
the fewest pods (it takes 100m for each that asks for nothing); on large ones almost all went to one."""
OUTPUT = f"s3://artifacts/{{{{ index $.metadata.labels `{QJOB_NAME_LABEL}` }}}}"
"""Where the pod's job writes to (`load.py`), in KWOK's words."""
_NODE_STATUS = """
phase: Running
conditions: [{type: Ready, status: "True", reason: KubeletReady, message: KWOK plays it}]
capacity: &room {cpu: 10, memory: 20Gi, ephemeral-storage: 100Ti, pods: 1M}
allocatable: *room
"""


def stages(run_seconds: float) -> list[dict[str, Any]]:
    """What KWOK does to a node, and to a pod that was scheduled."""
    running = _status("Running", "running: {startedAt: {{ Now | Quote }}}")
    message = result_at(OUTPUT).to_message().replace("'", "''")
    ended = _status(
        "Succeeded",
        "terminated: {exitCode: 0, reason: Completed, startedAt: {{ Now | Quote }}, "
        f"finishedAt: {{{{ Now | Quote }}}}, message: '{message}'}}",
    )
    room = {"statusTemplate": _NODE_STATUS}
    return [
        _stage(
            "ready", [{"key": ".status.phase", "operator": "NotIn", "values": ["Running"]}], room, kind="Node"
        ),
        _stage("start", [_phase("Pending"), _deleting(False)], {"statusTemplate": running}),
        _stage("end", [_phase("Running"), _deleting(False)], {"statusTemplate": ended}, run_seconds),
        _stage("delete", [_deleting(True)], {"finalizers": {"empty": True}, "delete": True}),
    ]


def configure(path: Path, run_seconds: float) -> None:
    """Write the configuration that KWOK is started with."""
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "cidr": "10.0.0.1/24",
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 4,
            "podsOnNodeSyncParallelism": 4,
            "nodeLeaseParallelism": 4,
        },
    }
    path.write_text(yaml.safe_dump_all([options, *stages(run_seconds)]))


def command(program: Path, kubeconfig: Path, configuration: Path, node: str) -> list[str]:
    """How KWOK is started for a node; it serves nothing."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--config={configuration}",
        "--manage-all-nodes=false",
        f"--manage-single-node={node}",
        "--node-lease-duration-seconds=40",
    ]


def make_nodes(client: Client) -> None:
    """Nodes, which KWOK makes ready and keeps."""
    for name in NODES:
        node = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}
        client.send("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})


def _status(phase: str, state: str) -> str:
    return f"""
containerStatuses:
{{{{ range .spec.containers }}}}
- name: {{{{ .name | Quote }}}}
  image: {{{{ .image | Quote }}}}
  imageID: ""
  ready: false
  restartCount: 0
  state:
    {state}
{{{{ end }}}}
phase: {phase}
"""


def _phase(value: str) -> dict[str, Any]:
    return {"key": ".status.phase", "operator": "In", "values": [value]}


def _deleting(yes: bool) -> dict[str, Any]:
    return {"key": ".metadata.deletionTimestamp", "operator": "Exists" if yes else "DoesNotExist"}


def _stage(
    name: str,
    conditions: list[dict[str, Any]],
    following: dict[str, Any],
    seconds: float = 0.0,
    kind: str = "Pod",
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": f"{kind.lower()}-{name}"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": conditions},
            "delay": {"durationMilliseconds": round(1000 * seconds)},
            "next": following,
        },
    }
