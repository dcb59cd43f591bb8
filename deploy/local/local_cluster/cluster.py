"""Brings the cluster up: each step finds out what is there already and does only what is missing."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from string import Template

from local_cluster import (
    cgroups,
    gpus,
    identity,
    network,
    ownership,
    ports,
    processes,
    proof,
    servers,
    teardown,
)
from local_cluster.binaries import kubernetes_version, obtain
from local_cluster.errors import ClusterError
from local_cluster.kubectl import Kubectl, find_kubectl
from local_cluster.machine import missing_programs, require, system_programs
from local_cluster.probing import Probe
from local_cluster.progress import Progress
from local_cluster.runtime import Containerd
from local_cluster.settings import Settings
from local_cluster.waiting import until

ALL_SERVERS = (*servers.FOUNDATION, "kube-apiserver", *servers.DEPENDENTS)


@contextmanager
def exclusive(settings: Settings, progress: Progress) -> Iterator[None]:
    """Let one command at a time change the cluster; the others wait."""
    settings.state.parent.mkdir(parents=True, exist_ok=True)
    with (settings.state.parent / f".{settings.state.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Waiting for another command on the same cluster"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(settings: Settings, progress: Progress, gpu_count: int | None = None) -> None:
    """Start what does not run yet, and prove with a pod that the whole works.

    Args:
        settings: paths and addresses.
        progress: who is told.
        gpu_count: how many GPUs the node pretends to have; None means as many as last time.

    Raises:
        ClusterError: the machine lacks something, another program is in the way, or a server does not become ready.
    """
    require(missing_programs(), "the local cluster")
    binaries = obtain(settings, progress)
    started_at = datetime.now(UTC)
    ownership.claim(settings)
    if not any(processes.running(settings, name) for name in ALL_SERVERS):
        with progress.step("Clearing what an earlier run left behind", quiet_below=1.0):
            teardown.sweep(settings, machine_wide=True)
    refuse_taken_ports(settings)
    settings.state.mkdir(parents=True, exist_ok=True)
    settings.state.chmod(0o711)  # others may not list it; the image's users reach what is mounted into pods
    with progress.step("Preparing certificates, addresses and control groups"):
        who = identity.establish(settings)
        network.set_up(settings)
        cgroups.create()
    start = _Starter(settings, progress)
    containerd = Containerd(settings)
    pause = containerd.image_of(binaries["pause"])
    probe = Probe(settings.api_url, who.authority.pair.certificate, who.admin)
    with progress.step("Starting etcd, containerd, the image registry and the API server"):
        for server in servers.foundation(settings, binaries, system_programs(), pause):
            start(server)
        start(servers.api_server(settings, who, binaries["kube-apiserver"]))
        start.wait(containerd.answers, "containerd")
        containerd.supply(binaries["pause"])
        coredns = containerd.supply(binaries["coredns"])
        start.wait(partial(probe.get, "/readyz"), "the API server")
    kubectl = kubectl_for(settings)
    with progress.step("Starting the controllers, the proxy and the kubelet"):
        for server in servers.controllers(settings, who, binaries):
            start(server)
        start(servers.kubelet(settings, who, binaries["kubelet"]))
        for namespace in ("default", "kube-system"):
            account = partial(probe.get, f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
            start.wait(account, f"the service account of namespace {namespace}")
        manifest = (settings.manifests / "coredns.yaml").read_text()
        dns = Template(manifest).substitute(IMAGE=coredns, DNS_IP=settings.dns_ip)
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=dns)
        start.wait(lambda: proof.node_is_fresh(probe, settings, started_at), "the node to be Ready")
    count = gpus.remembered(settings) if gpu_count is None else gpu_count
    if count or gpu_count is not None:
        gpus.pretend(settings, kubectl, count)
    with progress.step("Proving it with a pod that finds the API server by name"):
        proof.run_proof(kubectl, probe, settings, pause)
    start.check()


def kubectl_for(settings: Settings) -> Kubectl:
    """A kubectl that fits the cluster's version, bound to it."""
    version = kubernetes_version((settings.go_sources / "go.mod").read_text())
    return Kubectl(find_kubectl(int(version.split(".")[1])), settings.kubeconfig)


def refuse_taken_ports(settings: Settings) -> None:
    """Refuse to start while another program holds a port that a server needs.

    Raises:
        ClusterError: a port is taken; the message names its holder.
    """
    taken = []
    for name, addresses in servers.listeners(settings).items():
        if processes.running(settings, name):
            continue
        for address, port in addresses:
            holder = ports.holder(address, port)
            if holder:
                taken.append(f"port {port}, which the {name} needs, is held by {holder}")
    if taken:
        hint = ""
        if any(f"port {settings.registry_port}," in sentence for sentence in taken):
            hint = "; the registry can use another: QUANTIZATION_REGISTRY_PORT=5001"
        raise ClusterError("; ".join(taken) + hint)


class _Starter:
    """Starts servers, and while it waits notices when one of them has ended."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._names: list[str] = []

    def __call__(self, server: processes.Server) -> None:
        processes.start(self._settings, server)
        self._names.append(server.name)

    def check(self) -> None:
        """Raise when a server that was started has ended."""
        for name in self._names:
            if processes.running(self._settings, name) is None:
                tail = processes.log_tail(self._settings, name)
                raise ClusterError(f"{name} has ended; {self._settings.logs}/{name}.log ends with:\n{tail}")

    def wait(self, condition: Callable[[], object], what: str, limit: float = 60.0) -> None:
        """Wait for a condition while all started servers live."""

        def holds() -> bool:
            self.check()
            return bool(condition())

        until(holds, f"{what}; the logs are in {self._settings.logs}", limit)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `status` shows of one server."""

    name: str
    pid: int | None
    memory_bytes: int


def status(settings: Settings) -> list[ServerStatus]:
    """Which servers run, and how much memory each holds."""
    found = []
    for name in ALL_SERVERS:
        record = processes.running(settings, name)
        memory = processes.resident_bytes(record.pid) if record else 0
        found.append(ServerStatus(name, record.pid if record else None, memory))
    return found


def node_ready(settings: Settings) -> bool:
    """Whether the API server says that the node is Ready now."""
    done = kubectl_for(settings)(
        "get", "node", settings.node_name, "-o", "json", "--request-timeout=3s", check=False
    )
    return done.returncode == 0 and proof.condition(done.stdout.encode(), "Ready") == "True"
