"""Everything that the load meets: API server, controller manager, scheduler, KWOK, the operator's installation.

All on loopback. The limits of requests that Kubernetes' own controllers set themselves are raised, for both sides
alike: with the defaults the Job controller makes 20 pods a second, and nothing else would be measured.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.scale import kwok
from tests.support.api_client import Client, RefusedError
from tests.support.operator_process import (
    SYSTEM,
    Operator,
    install,
    make_namespace,
    service_account_kubeconfig,
)

from local_cluster.binaries import obtain
from local_cluster.control_plane import ApiServer
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from quantization_operator.settings import OperatorSettings

NAMESPACE = "scale"
LEASE_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/quantization-operator-leader"
_REQUESTS = ("--kube-api-qps=1000", "--kube-api-burst=2000")
FLAGS = {
    "kube-controller-manager": (*_REQUESTS, "--concurrent-job-syncs=16", "--concurrent-gc-syncs=20"),
    "kube-apiserver": ("--event-ttl=5m", "--feature-gates=DetectCacheInconsistency=false"),
}
"""Events go after 5 minutes: a long run writes a million of them. And the API server does not compare its caches with
etcd, as it does every 5 minutes by listing everything: in runs with it watches of pods were cut off at that time, and
KWOK, going through 7,000 pods again, held everybody up for a minute."""


DEFAULT_INTERVAL = OperatorSettings.model_fields["progress_interval_seconds"].default
"""Tests in which a pod lives for a second look more often."""


class Plane:
    """A context manager around the whole control plane. run_seconds: how long a pod runs."""

    def __init__(self, run_seconds: float = 1.0) -> None:
        self._run_seconds = run_seconds
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        """Start the servers and install the operator's base."""
        settings = Settings.from_environment()
        self.programs = obtain(settings, Progress(), ["kube-scheduler", "kwok"])
        self.api = ApiServer(controllers=True, flags=FLAGS)
        self.api.__enter__()
        try:
            self._prepare()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the servers."""
        for _, process in reversed(self._processes):
            process.kill()
            process.wait()
        self.api.__exit__(kind, error, trace)

    @property
    def directory(self) -> Path:
        """For logs and configurations; gone with the plane."""
        return self.api.directory

    @property
    def pids(self) -> dict[str, tuple[int, ...]]:
        """Of all servers but the operator, by their names."""
        names = dict.fromkeys(name for name, _ in self._processes)
        own = {name: tuple(p.pid for other, p in self._processes if other == name) for name in names}
        return {name: (pid,) for name, pid in self.api.pids.items()} | own

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of all servers and operators to a folder that stays."""
        folder.mkdir(parents=True, exist_ok=True)
        for log in self.directory.glob("*.log"):
            shutil.copy(log, folder)

    def operator(self, **settings: object) -> Operator:
        """The operator with its own permissions and a lease, which it finds free: the one before it was killed."""
        with contextlib.suppress(RefusedError):
            self.client.send("DELETE", LEASE_PATH)
        return Operator(
            self._operator_kubeconfig,
            self.directory / "operator.log",
            lease_namespace=SYSTEM,
            **{"progress_interval_seconds": DEFAULT_INTERVAL, **settings},
        )

    def spawn(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a server, with a log of its name; it ends with this process."""
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append((name, process))
        return process

    @contextmanager
    def without_pods(self) -> Iterator[None]:
        """Hold everybody who makes or runs pods: then only Jobs are made, and only their makers are measured."""
        for pid in self._players:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in self._players:
                os.kill(pid, signal.SIGCONT)

    @property
    def _players(self) -> tuple[int, ...]:
        return self.api.pids["kube-controller-manager"], *self.pids["kube-scheduler"], *self.pids["kwok"]

    def _prepare(self) -> None:
        install(self.api)
        self._operator_kubeconfig = service_account_kubeconfig(
            self.api, self.directory / "operator.kubeconfig"
        )
        self.client = Client(self.api.kubeconfig)
        configuration = self.directory / "kwok.yaml"
        kwok.configure(configuration, self._run_seconds)
        kubeconfig = self.api.kubeconfig
        self.spawn("kube-scheduler", [
            str(self.programs["kube-scheduler"]), f"--kubeconfig={kubeconfig}", "--leader-elect=false",
            f"--authentication-kubeconfig={kubeconfig}", f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1", "--secure-port=0", "--profiling=false", *_REQUESTS,
        ])  # fmt: skip
        for node in kwok.NODES:
            self.spawn("kwok", kwok.command(self.programs["kwok"], kubeconfig, configuration, node))
        kwok.make_nodes(self.client)
        make_namespace(self.api, NAMESPACE)
        self.api.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=30s")
        for pid in self._players:
            _yield_to_others(pid)


def _yield_to_others(pid: int) -> None:
    """Let a process run only on what others leave: who makes and runs pods has machines of its own in a cluster.

    A mere nice value of 19 kept the API server waiting: of 2,400 jobs the p99 to the Job was 0.6 to 0.8 s, and is 0.4
    to 0.5 s with this.
    """
    for thread in Path(f"/proc/{pid}/task").iterdir():  # later ones inherit it
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
