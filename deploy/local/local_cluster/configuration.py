"""The text of the servers' configuration files.

Each choice that differs from the server's default has its reason beside it.
"""

import json
from typing import Any

import yaml

from local_cluster.identity import Identity
from local_cluster.settings import Settings

CNI_PLUGINS = "/usr/lib/cni"
CNI_NETWORK = "quantization-local"
CGROUP = "quantization-local"
"""The control group, in every hierarchy, below which all pods run."""


def containerd(settings: Settings, pause_image: str) -> str:
    """containerd's configuration: its own root, state and socket beside any other containerd of the machine."""
    home = settings.state / "ctd"
    return f"""\
version = 2
root = "{home}/root"
state = "{home}/run"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{settings.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # Inside a container or a small virtual machine, lowering one's own score below the parent's is not permitted.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{home}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{settings.config}/cni"
"""


def cni(settings: Settings) -> str:
    """The pods' network: one bridge, addresses from one range, no way out to other machines."""
    bridge = {
        "type": "bridge",
        "bridge": settings.pod_bridge,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,  # a pod reaches itself through its own Service
        "ipam": {
            "type": "host-local",
            "dataDir": str(settings.state / "cni-addresses"),
            "ranges": [[{"subnet": settings.pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": CNI_NETWORK, "plugins": [bridge]}, indent=1)


def kubelet(settings: Settings, identity: Identity) -> str:
    """The kubelet's configuration."""
    document: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": settings.node_ip,
        "tlsCertFile": str(identity.kubelet_server.certificate),
        "tlsPrivateKeyFile": str(identity.kubelet_server.key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(identity.authority.pair.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "failCgroupV1": False,  # machines with the older control groups are welcome
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",  # works with and without systemd
        "cgroupRoot": f"/{CGROUP}",
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,  # kube-proxy uses nftables
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket}",
        "clusterDNS": [settings.dns_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "serializeImagePulls": False,
        # Images have no secrets here, and one that was imported must stay usable when the same one is also pulled.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 10,
        "seccompDefault": True,
        "podLogsDir": str(settings.state / "pod-logs"),
        "volumePluginDir": str(settings.state / "volume-plugins"),
        # The machine has other users than this cluster: evict late, and leave cached images alone.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
    }
    return yaml.safe_dump(document, sort_keys=False)


def proxy(settings: Settings, identity: Identity) -> str:
    """kube-proxy's configuration."""
    document: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": settings.node_ip,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": str(identity.kubeconfigs["proxy"])},
        "clusterCIDR": settings.pod_cidr,
        "hostnameOverride": settings.node_name,
        "nodePortAddresses": [f"{settings.node_ip}/32"],
        "nftables": {"minSyncPeriod": "200ms", "syncPeriod": "30s"},
        "conntrack": {"maxPerCore": 0, "min": 0},  # leave the machine's own limits
    }
    return yaml.safe_dump(document, sort_keys=False)


def registry(settings: Settings) -> str:
    """The image registry's configuration."""
    document: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(settings.state / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{settings.registry_port}"},
    }
    return yaml.safe_dump(document, sort_keys=False)
