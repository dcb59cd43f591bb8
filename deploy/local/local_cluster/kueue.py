"""Puts Kueue, a queue for Jobs, into the local cluster, and takes it out again.

Its manifests are those of its Go module, whose source lies in the module cache, and its image is the static program
that `binaries` builds. What is changed is what one small node needs: the image, less memory, batch/v1 Jobs only.

Kueue's webhook has to answer before any Job of the cluster can be created, also those without a queue. So it is only
put in when it is asked for, and its webhooks are the first thing that is taken out.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import yaml

from local_cluster.binaries import obtain
from local_cluster.errors import ClusterError
from local_cluster.progress import Progress
from local_cluster.runtime import Containerd
from local_cluster.settings import Settings
from local_cluster.shell import run
from local_cluster.target import Target, local
from local_cluster.toolchain import find_go

NAMESPACE = "kueue-system"
DEPLOYMENT = "kueue-controller-manager"
_CERTIFICATE = "kueue-webhook-server-cert"
_MODULE = "sigs.k8s.io/kueue"
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_WEBHOOKS = (
    "mutatingwebhookconfiguration/kueue-mutating-webhook-configuration",
    "validatingwebhookconfiguration/kueue-validating-webhook-configuration",
)
_OBJECTS = "workloads,localqueues,clusterqueues,resourceflavors,workloadpriorityclasses"
_CONFIGURATION = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": ":8081"},
    "metrics": {"bindAddress": ":8443"},
    "webhook": {"port": 9443},
    "leaderElection": {"leaderElect": False},  # one replica, which need not wait for the lease of the last
    "integrations": {"frameworks": ["batch/job"]},
}


def install(settings: Settings, target: Target, progress: Progress) -> None:
    """Have Kueue ready: its webhook answers, so that Jobs can be created. Again, it changes nothing.

    Raises:
        ClusterError: its module or its program cannot be had, or it does not become ready.
    """
    program = obtain(settings, progress, ["kueue"])["kueue"]
    image = Containerd(settings).supply(program)
    directory = settings.state / "install" / "kueue"
    _write(directory, _sources(settings, progress) / "default", program, image)
    with progress.step(f"Installing Kueue: kubectl apply --server-side -k {directory}"):
        kubectl = target.kubectl
        kubectl("apply", "--server-side", "--force-conflicts", "-k", directory)
        system = ("--namespace", NAMESPACE)
        kubectl(
            *system, "wait", "--for=jsonpath={.data.tls\\.crt}", f"secret/{_CERTIFICATE}", "--timeout=60s"
        )
        # It waits for the certificate that it has just made. A change of the pod has the kubelet mount it at once,
        # instead of within its next two minutes.
        kubectl(*system, "annotate", "pods", "--all", "--overwrite", "quantization.dev/certificate=made")
        kubectl(*system, "rollout", "status", f"deployment/{DEPLOYMENT}", "--timeout=120s")
        kubectl(
            "wait",
            "--for=condition=Available",
            "apiservice/v1beta2.visibility.kueue.x-k8s.io",
            "--timeout=60s",
        )


def remove(settings: Settings, target: Target, progress: Progress) -> None:
    """Take Kueue out, with its queues; the webhooks first, so that Jobs can be created all the while.

    Raises:
        ClusterError: Jobs still wait or run in its queues; without Kueue nobody would start those that wait.
    """
    directory = settings.state / "install" / "kueue"
    kubectl = target.kubectl
    if not kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "--output", "name").stdout:
        return
    found = kubectl("get", "jobs", "--all-namespaces", "--selector", _QUEUE_LABEL, "--output", "json").stdout
    if waiting := [name for job in json.loads(found)["items"] if (name := _unfinished(job))]:
        raise ClusterError(f"Jobs wait or run in Kueue's queues; delete them first: {', '.join(waiting)}")
    with progress.step("Removing Kueue"):
        kubectl("delete", *_WEBHOOKS, "--ignore-not-found")
        # Their finalizers are Kueue's to remove, so they go while it runs.
        kubectl("delete", _OBJECTS, "--all", "--all-namespaces", "--timeout=60s")
        kubectl("delete", "--ignore-not-found", "--timeout=120s", "-k", directory)


def _unfinished(job: dict[str, Any]) -> str:
    ended = {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}
    return (
        "" if ended & {"Complete", "Failed"} else f"{job['metadata']['namespace']}/{job['metadata']['name']}"
    )


def kinds(settings: Settings, progress: Progress) -> Path:
    """The kustomization of its kinds alone, for an API server that is to know them.

    Raises:
        ClusterError: its module cannot be had.
    """
    return _sources(settings, progress) / "components" / "crd"


def _sources(settings: Settings, progress: Progress) -> Path:
    """The folder of its manifests in the module cache; the module is downloaded when it is not there."""
    sources = settings.go_sources.parent / "peers" / "kueue"
    go = find_go(settings, progress)
    said = run(go, "mod", "download", "-json", _MODULE, cwd=sources, env={"GOTOOLCHAIN": "local"}).stdout
    return Path(json.loads(said)["Dir"]) / "config"


def _write(directory: Path, base: Path, program: Path, image: str) -> None:
    """The kustomization that is applied, for people to read."""
    container = "/spec/template/spec/containers/0"
    changes = {
        f"{container}/image": image,
        f"{container}/imagePullPolicy": "Never",
        f"{container}/command": [f"/{program.name}"],
        f"{container}/resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        f"{container}/readinessProbe/initialDelaySeconds": 1,
        f"{container}/readinessProbe/periodSeconds": 1,
    }
    patch = [{"op": "replace", "path": path, "value": value} for path, value in changes.items()]
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(base, directory.resolve())],
        "patches": [
            {
                "target": {"kind": "Deployment", "name": DEPLOYMENT},
                "patch": yaml.safe_dump(patch, sort_keys=False),
            }
        ],
        "generatorOptions": {"disableNameSuffixHash": True},
        "configMapGenerator": [
            {
                "name": "kueue-manager-config",
                "namespace": NAMESPACE,
                "behavior": "replace",
                "files": ["controller_manager_config.yaml"],
            }
        ],
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "controller_manager_config.yaml").write_text(yaml.safe_dump(_CONFIGURATION, sort_keys=False))
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add `kueue` to the command line."""
    parser = subparsers.add_parser("kueue", help="put Kueue, a queue for Jobs, into the local cluster")
    parser.add_argument("--remove", action="store_true", help="take it out again")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    (remove if arguments.remove else install)(settings, local(settings), Progress())
    return 0
