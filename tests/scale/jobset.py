"""The JobSet controller, with its own default settings, on the same API server.

Its CRD comes from the source of its module. Its webhooks are left out, which only spares it work: what they would
fill in is written into the manifest, and there is nothing wrong to refuse. The API server's own work for a JobSet is
less, too: its schema has a few rules, and that of a QuantizationJob dozens.
"""

import copy
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.scale.load import Side
from tests.scale.plane import NAMESPACE, Plane
from tests.support.operator_process import until
from tests.support.ports import free_ports

from local_cluster.binaries import obtain
from local_cluster.certificates import Authority
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.toolchain import find_go

MODULE = "sigs.k8s.io/jobset"
CRD = "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"
_POD = {
    "restartPolicy": "Never",
    "automountServiceAccountToken": False,
    "containers": [{"name": "quantizer", "image": "quantizer:dev", "args": ["run"]}],
}


def _manifest(dns: bool) -> dict[str, Any]:
    """One Job of one pod. dns: whether it has a headless Service, as by default."""
    job = {"completionMode": "Indexed", "backoffLimit": 3, "template": {"spec": _POD}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "NAME", "namespace": NAMESPACE},
        "spec": {
            "successPolicy": {"operator": "All"},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "network": {"enableDNSHostnames": dns, "publishNotReadyAddresses": True},
            "replicatedJobs": [{"name": "main", "replicas": 1, "template": {"spec": job}}],
        },
    }


PATH = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets"
JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
JOBSET = Side("JobSet", PATH, JOB_LABEL, _manifest(dns=True))
JOBSET_WITHOUT_SERVICE = Side("JobSet without its Service", PATH, JOB_LABEL, _manifest(dns=False))


@contextmanager
def started(plane: Plane) -> Iterator[subprocess.Popen[bytes]]:
    """The controller, from its start, ready or not, until the end of the block; it must live until then."""
    program = obtain(Settings.from_environment(), Progress(), ["jobset"])["jobset"]
    plane.api.kubectl("apply", "--server-side", "-f", "-", stdin=_crd())
    until(
        "JobSets are served", lambda: plane.api.kubectl("get", "jobsets", "-A", check=False).returncode == 0
    )
    configuration = _configure(plane)
    process = plane.spawn(
        "jobset",
        [
            str(program),
            f"--kubeconfig={plane.api.kubeconfig}",
            f"--config={configuration}",
            "--zap-log-level=error",
        ],
    )
    try:
        yield process
    finally:
        died = process.poll() is not None
        process.kill()
        process.wait()
        assert not died, (plane.directory / "jobset.log").read_text()


@contextmanager
def running(plane: Plane) -> Iterator[subprocess.Popen[bytes]]:
    """The controller, from when it works until the end of the block; nothing else must wait for it yet."""
    with started(plane) as process:
        until("the JobSet controller works", lambda: _works(plane, process))
        yield process


def _works(plane: Plane, process: subprocess.Popen[bytes]) -> bool:
    """Whether it turns a JobSet into a Job. kubectl does not validate: a busy API server is too slow to tell how."""
    assert process.poll() is None, "the JobSet controller ended"
    probe = copy.deepcopy(_manifest(dns=True))
    probe["metadata"]["name"] = "probe"
    plane.api.kubectl("apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump(probe))
    command = ("get", "jobs", "-n", NAMESPACE, "-l", f"{JOB_LABEL}=probe", "-o", "name")
    return bool(plane.api.kubectl(*command).stdout)


def _configure(plane: Plane) -> Path:
    """Its own defaults, but for where it listens, and for certificates, which are made here."""
    authority = Authority.create(plane.directory / "jobset", "authority")
    pair = authority.server("tls", "jobset", ["IP:127.0.0.1"])
    configuration = plane.directory / "jobset.yaml"
    configuration.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
                "kind": "Configuration",
                "leaderElection": {"leaderElect": False},
                "internalCertManagement": {"enable": False},
                "metrics": {"bindAddress": "0"},
                "health": {"healthProbeBindAddress": "0"},
                "webhook": {"host": "127.0.0.1", "port": free_ports(1)[0], "certDir": str(pair.key.parent)},
            }
        )
    )
    return configuration


def _crd() -> str:
    """The definition of a JobSet, as its module has it."""
    settings = Settings.from_environment()
    folder = subprocess.run(
        [find_go(settings, Progress()), "list", "-mod=mod", "-m", "-f", "{{.Dir}}", MODULE],
        cwd=settings.go_sources.parent / "peers/jobset",
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return (Path(folder) / CRD).read_text()
