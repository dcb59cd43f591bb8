"""A Kubernetes API server alone, for tests: etcd and kube-apiserver on loopback, without root, ready in seconds.

    with ApiServer() as api:
        api.kubectl("apply", "-f", "crd.yaml")

There is no scheduler, no kubelet and, unless asked for, no controller: an object that is created stays as it is, which
is what a test of one controller's decisions wants.
"""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from local_cluster.binaries import kubernetes_version, obtain
from local_cluster.certificates import Authority, Pair, service_account_key, write_kubeconfig
from local_cluster.errors import ClusterError
from local_cluster.etcd import etcd_command
from local_cluster.kubectl import Kubectl, find_kubectl
from local_cluster.probing import Probe
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.waiting import until

_ATTEMPTS = 3
_READY_LIMIT = 60.0
_STOP_LIMIT = 10.0


def _free_ports(count: int) -> list[int]:
    """Choose ports that are free now; all are held until the last is chosen, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class _PortTakenError(ClusterError):
    """A port that was free when it was chosen is taken by now."""


class ApiServer:
    """A context manager around one API server and its own etcd, in a temporary directory and on free ports.

    Several can live at once. The servers end with the block, and also with the thread that started them.

    Args:
        controllers: also run kube-controller-manager (Jobs make pods, namespaces can be deleted, garbage is collected).
        flags: more flags of a server, by its name.
        settings: where binaries are looked for; by default what the environment says.
        progress: who is told when binaries have to be built.

    Attributes:
        kubeconfig: path of a cluster administrator's kubeconfig, valid inside the block.
        url: the server's address.
    """

    def __init__(
        self,
        *,
        controllers: bool = False,
        flags: Mapping[str, Sequence[str]] = MappingProxyType({}),
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._controllers = controllers
        self._flags = flags
        self._settings = settings or Settings.from_environment()
        self._progress = progress or Progress()
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._directory: Path | None = None
        self._kubectl: Kubectl | None = None
        self.url = ""

    @property
    def directory(self) -> Path:
        """The temporary directory: data, certificates and one log file for each server.

        Raises:
            ClusterError: outside the block.
        """
        if self._directory is None:
            raise ClusterError("the API server runs only inside its `with` block")
        return self._directory

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the servers, by name."""
        return {name: process.pid for name, process in self._processes}

    @property
    def kubeconfig(self) -> Path:
        """Path of the administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    def kubectl(
        self, *args: str | Path, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl against this server and return its exit code and output.

        Raises:
            CommandError: its exit code was not zero, and `check` is set.
        """
        if self._kubectl is None:
            raise ClusterError("the API server runs only inside its `with` block")
        return self._kubectl(*args, stdin=stdin, check=check)

    def __enter__(self) -> Self:
        """Start the servers and wait until they are ready.

        Raises:
            ClusterError: a server ended or was not ready in time; the message carries the end of its log.
        """
        names = ["etcd", "kube-apiserver", *(["kube-controller-manager"] if self._controllers else [])]
        binaries = obtain(self._settings, self._progress, names)
        version = kubernetes_version((self._settings.go_sources / "go.mod").read_text())
        self._directory = Path(tempfile.mkdtemp(prefix="quantization-api-"))
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    self._start(binaries)
                    break
                except _PortTakenError:
                    self._stop()
                    if attempt == _ATTEMPTS - 1:
                        raise
            self._kubectl = Kubectl(find_kubectl(int(version.split(".")[1])), self.kubeconfig)
        except BaseException:  # also an interrupt must not leave servers behind
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the servers and remove their directory."""
        self._stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None
        self._kubectl = None

    def _start(self, binaries: dict[str, Path]) -> None:
        client_port, peer_port, api_port = _free_ports(3)
        authority = Authority.create(self.directory / "pki", "ca")
        admin = authority.client("admin", "admin", "system:masters")
        self.url = f"https://127.0.0.1:{api_port}"
        write_kubeconfig(self.kubeconfig, self.url, authority, admin)
        etcd, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        self._spawn("etcd", etcd_command(binaries["etcd"], self.directory / "etcd", etcd, peer))
        self._spawn("kube-apiserver", self._api_server(binaries["kube-apiserver"], authority, etcd, api_port))
        probe = Probe(self.url, authority.pair.certificate, admin)
        self._wait(lambda: probe.get("/readyz") and probe.get("/api/v1/namespaces/default"), "the API server")
        if self._controllers:
            port = _free_ports(1)[0]
            self._spawn(
                "kube-controller-manager", self._manager(binaries["kube-controller-manager"], authority, port)
            )
            self._wait(
                lambda: probe.get("/api/v1/namespaces/default/serviceaccounts/default"), "the controllers"
            )

    def _api_server(self, program: Path, authority: Authority, etcd: str, port: int) -> list[str]:
        server = authority.server("server", "kube-apiserver", ["DNS:localhost", "IP:127.0.0.1"])
        tokens = service_account_key(authority.directory)
        # Without controllers no namespace gets the service account that this plugin asks every pod to have.
        disabled = [] if self._controllers else ["--disable-admission-plugins=ServiceAccount"]
        return [
            str(program),
            f"--etcd-servers={etcd}",
            f"--cert-dir={authority.directory}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={port}",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            "--allow-privileged=true",
            "--profiling=false",
            f"--client-ca-file={authority.pair.certificate}",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={tokens.certificate}",
            f"--service-account-signing-key-file={tokens.key}",
            *disabled,
        ]

    def _manager(self, program: Path, authority: Authority, port: int) -> list[str]:
        client: Pair = authority.client("controllers", "system:kube-controller-manager")
        kubeconfig = self.directory / "controllers.kubeconfig"
        write_kubeconfig(kubeconfig, self.url, authority, client)
        return [
            str(program),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={authority.directory}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--controllers=*,-node-ipam-controller,-service-lb-controller,-node-route-controller,"
            "-cloud-node-lifecycle-controller",
            f"--service-account-private-key-file={service_account_key(authority.directory).key}",
            f"--root-ca-file={authority.pair.certificate}",
            f"--cluster-signing-cert-file={authority.pair.certificate}",
            f"--cluster-signing-key-file={authority.pair.key}",
            "--profiling=false",
        ]

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        # setpriv asks the kernel to end the server when this process is killed and cannot do it itself. Not with
        # TERM: all servers get it at once, and an API server whose etcd is already gone never ends its shutdown.
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv, *self._flags.get(name, ())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        self._processes.append((name, process))

    def _wait(self, ready: Callable[[], bytes | None], what: str) -> None:
        def check() -> bytes | None:
            for name, process in self._processes:
                if process.poll() is not None:
                    log = (self.directory / f"{name}.log").read_text(errors="replace")
                    kind = _PortTakenError if "address already in use" in log else ClusterError
                    tail = "\n".join(log.splitlines()[-10:])
                    raise kind(
                        f"{name} ended with exit code {process.returncode}; its log ends with:\n{tail}"
                    )
            return ready()

        until(check, f"{what} to become ready; the logs are in {self.directory}", _READY_LIMIT)

    def _stop(self) -> None:
        """Stop the last started server first, so that none of them loses what it depends on."""
        for _, process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    # The API server would wait for its watchers; nothing here is worth waiting for.
                    process.wait(1.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(_STOP_LIMIT)
        self._processes.clear()
