"""The certificates and kubeconfigs of the cluster's parts; made once, they survive `down`."""

from dataclasses import dataclass
from pathlib import Path

from local_cluster.certificates import Authority, Pair, service_account_key, write_kubeconfig
from local_cluster.settings import Settings

_CLIENTS = {
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "proxy": ("system:kube-proxy", None),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is who in the cluster."""

    authority: Authority
    front_proxy: Authority
    api_server: Pair
    kubelet_server: Pair
    kubelet_client: Pair
    """By which the API server talks to the kubelet."""
    aggregator: Pair
    """By which the API server talks to aggregated API servers."""
    tokens: Pair
    admin: Pair
    kubeconfigs: dict[str, Path]


def establish(settings: Settings) -> Identity:
    """Make what is missing of the cluster's certificates, and write its kubeconfigs."""
    authority = Authority.create(settings.pki, "ca")
    front_proxy = Authority.create(settings.pki, "front-proxy-ca")
    service = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    names = [f"DNS:{name}" for name in (*service, "localhost")]
    addresses = [f"IP:{address}" for address in (settings.node_ip, settings.service_ip, "127.0.0.1")]
    node = (f"system:node:{settings.node_name}", "system:nodes")
    kubeconfigs = {}
    for part, (user, group) in {**_CLIENTS, "kubelet": node}.items():
        kubeconfigs[part] = settings.pki / f"{part}.kubeconfig"
        write_kubeconfig(kubeconfigs[part], settings.api_url, authority, authority.client(part, user, group))
    admin = authority.client("admin", "admin", "system:masters")
    write_kubeconfig(settings.kubeconfig, settings.api_url, authority, admin)
    return Identity(
        authority=authority,
        front_proxy=front_proxy,
        api_server=authority.server("api-server", "kube-apiserver", names + addresses),
        kubelet_server=authority.server(
            "kubelet-server", settings.node_name, [f"DNS:{settings.node_name}", f"IP:{settings.node_ip}"]
        ),
        kubelet_client=authority.client("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        aggregator=front_proxy.client("front-proxy-client", "front-proxy-client"),
        tokens=service_account_key(settings.pki),
        admin=admin,
        kubeconfigs=kubeconfigs,
    )
