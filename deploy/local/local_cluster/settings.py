"""Where the local cluster keeps its things, and the addresses it uses."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster.errors import ClusterError

_PACKAGE = Path(__file__).resolve().parent


def _default_cache() -> Path:
    return Path.home() / ".cache" / "quantization-operator"


@dataclass(frozen=True, slots=True)
class Settings:
    """All paths, addresses and ports of one local cluster; nothing else in this package makes up its own.

    The state directory holds what survives `down` (etcd, images, registry, certificates), the cache holds what survives
    `down --wipe` (binaries).
    """

    state: Path = field(default_factory=lambda: _default_cache() / "cluster")
    cache: Path = field(default_factory=_default_cache)
    bin_dir: Path | None = None
    """A directory of binaries that the user names; they are taken before the cache's."""
    registry_port: int = 5000
    api_port: int = 6443
    etcd_port: int = 23790
    etcd_peer_port: int = 23800

    node_name: str = "local"
    node_ip: str = "10.252.0.1"
    """The node's address, on a bridge without ports: the kubelet refuses loopback."""
    pod_cidr: str = "10.251.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    service_ip: str = "10.96.0.1"
    dns_ip: str = "10.96.0.10"
    node_bridge: str = "kn0"
    pod_bridge: str = "knbr0"

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, bin_dir: Path | None = None
    ) -> "Settings":
        """Read QUANTIZATION_LOCAL_DIR, QUANTIZATION_CACHE_DIR, QUANTIZATION_BIN_DIR and QUANTIZATION_REGISTRY_PORT.

        Raises:
            ClusterError: the port is not a number between 1 and 65535, or a path is too long for a Unix socket.
        """
        cache = Path(environ.get("QUANTIZATION_CACHE_DIR") or _default_cache()).expanduser().absolute()
        state = Path(environ.get("QUANTIZATION_LOCAL_DIR") or cache / "cluster").expanduser().absolute()
        if bin_dir is None and environ.get("QUANTIZATION_BIN_DIR"):
            bin_dir = Path(environ["QUANTIZATION_BIN_DIR"])
        port = environ.get("QUANTIZATION_REGISTRY_PORT") or "5000"
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ClusterError(
                f"QUANTIZATION_REGISTRY_PORT is {port!r}; write a port number between 1 and 65535"
            )
        if len(str(state)) > 60:  # sockets below it must stay under the kernel's 108 characters
            raise ClusterError(
                f"the state directory {state} has more than 60 characters; name a shorter QUANTIZATION_LOCAL_DIR"
            )
        return cls(
            state=state,
            cache=cache,
            bin_dir=bin_dir.expanduser().absolute() if bin_dir else None,
            registry_port=int(port),
        )

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; its certificates are inside, so a copy of the file works too."""
        return self.state / "kubeconfig"

    @property
    def registry(self) -> str:
        """The registry as image names spell it, on the host and in the cluster alike: `localhost:5000`."""
        return f"localhost:{self.registry_port}"

    @property
    def api_url(self) -> str:
        """The API server's address."""
        return f"https://{self.node_ip}:{self.api_port}"

    @property
    def logs(self) -> Path:
        """One log file for each server."""
        return self.state / "log"

    @property
    def pids(self) -> Path:
        """One record for each running server."""
        return self.state / "pid"

    @property
    def pki(self) -> Path:
        """Certificates, keys and the servers' own kubeconfigs."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the servers, written anew by each `up`."""
        return self.state / "config"

    @property
    def containerd_socket(self) -> Path:
        """The socket of the cluster's own containerd."""
        return self.state / "ctd" / "c.sock"

    @property
    def go_sources(self) -> Path:
        """The Go module that pins and builds the servers."""
        return _PACKAGE.parent / "go"

    @property
    def manifests(self) -> Path:
        """What the cluster itself needs to have applied: CoreDNS."""
        return _PACKAGE / "manifests"
