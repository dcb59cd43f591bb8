"""The command lines of the cluster's servers, and the ports they listen on."""

from collections.abc import Mapping
from pathlib import Path

from local_cluster import configuration
from local_cluster.etcd import etcd_command
from local_cluster.identity import Identity
from local_cluster.processes import Server
from local_cluster.settings import Settings

MONITORING = "prometheus"
"""Runs beside the cluster when it is asked for, and ends with it."""
DEPENDENTS = ("kubelet", "kube-scheduler", "kube-controller-manager", "kube-proxy", "registry")
"""Those that nothing else depends on; they are stopped first."""
FOUNDATION = ("etcd", "containerd")
"""Those that need no other server; they are stopped last, after the API server."""


def listeners(settings: Settings) -> dict[str, list[tuple[str, int]]]:
    """The addresses and ports that each server needs."""
    loopback = "127.0.0.1"
    return {
        "etcd": [(loopback, settings.etcd_port), (loopback, settings.etcd_peer_port)],
        "registry": [(loopback, settings.registry_port)],
        "kube-apiserver": [(settings.node_ip, settings.api_port)],
        "kube-controller-manager": [(loopback, 10257)],
        "kube-scheduler": [(loopback, 10259)],
        "kubelet": [(settings.node_ip, 10250), (loopback, 10248)],
        "kube-proxy": [(loopback, 10249), (loopback, 10256)],
    }


def foundation(
    settings: Settings, binaries: Mapping[str, Path], system: Mapping[str, Path], pause: str
) -> list[Server]:
    """etcd, containerd and the image registry: what needs no other server."""
    config = settings.config
    etcd = etcd_command(
        binaries["etcd"],
        settings.state / "etcd",
        f"http://127.0.0.1:{settings.etcd_port}",
        f"http://127.0.0.1:{settings.etcd_peer_port}",
    )
    return [
        Server("etcd", tuple(etcd)),
        _configured(
            "containerd",
            [str(system["containerd"]), "--config", f"{config}/containerd.toml"],
            config / "containerd.toml",
            configuration.containerd(settings, pause),
        ),
        _configured(
            "registry",
            [str(system["docker-registry"]), "serve", f"{config}/registry.yaml"],
            config / "registry.yaml",
            configuration.registry(settings),
        ),
    ]


def api_server(settings: Settings, identity: Identity, program: Path) -> Server:
    """kube-apiserver, with what the kubelet, webhooks and aggregated API servers need."""
    argv = [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{settings.etcd_port}",
        f"--bind-address={settings.node_ip}",
        f"--advertise-address={settings.node_ip}",
        f"--secure-port={settings.api_port}",
        f"--cert-dir={settings.pki}",
        f"--client-ca-file={identity.authority.pair.certificate}",
        f"--tls-cert-file={identity.api_server.certificate}",
        f"--tls-private-key-file={identity.api_server.key}",
        "--anonymous-auth=false",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={identity.tokens.certificate}",
        f"--service-account-signing-key-file={identity.tokens.key}",
        f"--service-cluster-ip-range={settings.service_cidr}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={identity.kubelet_client.certificate}",
        f"--kubelet-client-key={identity.kubelet_client.key}",
        f"--kubelet-certificate-authority={identity.authority.pair.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={identity.front_proxy.pair.certificate}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={identity.aggregator.certificate}",
        f"--proxy-client-key-file={identity.aggregator.key}",
        # A lost node shows within seconds: nobody wants to wait five minutes for it on one's own machine.
        "--default-not-ready-toleration-seconds=5",
        "--default-unreachable-toleration-seconds=5",
        "--profiling=false",
    ]
    return Server("kube-apiserver", tuple(argv))


def controllers(settings: Settings, identity: Identity, binaries: Mapping[str, Path]) -> list[Server]:
    """The controller manager, the scheduler and kube-proxy: what needs the API server."""
    manager = identity.kubeconfigs["controller-manager"]
    scheduler = identity.kubeconfigs["scheduler"]
    authority = identity.authority.pair
    return [
        Server(
            "kube-controller-manager",
            (
                str(binaries["kube-controller-manager"]),
                *_clients(manager),
                "--bind-address=127.0.0.1",
                f"--cert-dir={settings.pki}/controller-manager",
                "--leader-elect=false",
                "--controllers=*,-node-ipam-controller,-service-lb-controller,-node-route-controller,"
                "-cloud-node-lifecycle-controller",
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={identity.tokens.key}",
                f"--root-ca-file={authority.certificate}",
                f"--cluster-signing-cert-file={authority.certificate}",
                f"--cluster-signing-key-file={authority.key}",
                f"--flex-volume-plugin-dir={settings.state}/volume-plugins",
                "--node-monitor-period=2s",
                "--node-monitor-grace-period=20s",
                "--profiling=false",
            ),
        ),
        Server(
            "kube-scheduler",
            (
                str(binaries["kube-scheduler"]),
                *_clients(scheduler),
                "--bind-address=127.0.0.1",
                f"--cert-dir={settings.pki}/scheduler",
                "--leader-elect=false",
                "--profiling=false",
            ),
        ),
        _configured(
            "kube-proxy",
            [str(binaries["kube-proxy"]), f"--config={settings.config}/proxy.yaml"],
            settings.config / "proxy.yaml",
            configuration.proxy(settings, identity),
        ),
    ]


def kubelet(settings: Settings, identity: Identity, program: Path) -> Server:
    """The kubelet; the network plugin's configuration is written with its own."""
    argv = [
        str(program),
        f"--config={settings.config}/kubelet.yaml",
        f"--kubeconfig={identity.kubeconfigs['kubelet']}",
        f"--hostname-override={settings.node_name}",
        f"--node-ip={settings.node_ip}",
        f"--root-dir={settings.state}/kubelet",
        f"--cert-dir={settings.state}/kubelet-pki",
    ]
    _write(settings.config / "cni" / "10-pods.conflist", configuration.cni(settings))
    return _configured(
        "kubelet", argv, settings.config / "kubelet.yaml", configuration.kubelet(settings, identity)
    )


def _clients(kubeconfig: Path) -> tuple[str, ...]:
    return tuple(f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-"))


def _configured(name: str, argv: list[str], path: Path, text: str) -> Server:
    _write(path, text)
    return Server(name, tuple(argv), text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
