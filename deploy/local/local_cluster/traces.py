"""Finds what a cluster has left on the machine: processes, mounts, interfaces, rules, namespaces, groups, files."""

import ipaddress
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path

from local_cluster import cgroups, network, processes
from local_cluster.configuration import CNI_NETWORK
from local_cluster.settings import Settings
from local_cluster.shell import run

NETWORK_NAMESPACES = Path("/run/netns")
_CNI_RESULTS = Path("/var/lib/cni/results")
_LOG_LINKS = Path("/var/log/containers")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_SHIM_SOCKETS = Path("/run/containerd/s")


@dataclass(frozen=True, slots=True)
class Traces:
    """Everything of one cluster that is on the machine outside of its state directory, or is mounted inside of it."""

    processes: dict[int, str] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)
    interfaces: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    namespaces: list[Path] = field(default_factory=list)
    cgroups: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """One sentence for each trace; none when nothing is left."""
        return [
            *(f"process {pid} ({name}) is still there" for pid, name in self.processes.items()),
            *(f"{path} is still mounted" for path in self.mounts),
            *(f"interface {name} is still there" for name in self.interfaces),
            *(f"nftables table {name} is still there" for name in self.rules),
            *(f"network namespace {path} is still there" for path in self.namespaces),
            *(f"control group {path} is still there" for path in self.cgroups),
            *(f"{path} is still there" for path in self.files),
        ]


def find(settings: Settings, machine_wide: bool) -> Traces:
    """Look for traces; the machine-wide ones only when they are this cluster's (`machine_wide`)."""
    own = processes.marked_processes(settings)
    mounts = mounts_below(mount_table(), settings.state)
    if not machine_wide:
        return Traces(processes=own, mounts=mounts)
    in_pods = {pid: f"{' '.join(processes.command_line(pid))[:60]}, in a pod" for pid in cgroups.processes()}
    return Traces(
        processes=own | {pid: name for pid, name in in_pods.items() if processes.start_time(pid) is not None},
        mounts=mounts,
        interfaces=[name for name in (settings.node_bridge, settings.pod_bridge) if network.link(name)],
        rules=network.rule_tables(),
        namespaces=_namespaces(settings),
        cgroups=cgroups.existing(),
        files=_files(settings),
    )


def mount_table() -> str:
    """The kernel's list of what is mounted."""
    return Path("/proc/self/mountinfo").read_text()


def mounts_below(mountinfo: str, directory: Path) -> list[str]:
    """Mount points below a directory, deepest first, out of the text of /proc/self/mountinfo."""
    points = [line.split()[4].replace("\\040", " ") for line in mountinfo.splitlines()]
    return sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True)


def _namespaces(settings: Settings) -> list[Path]:
    """The pods' network namespaces, recognized by an address in the pods' range; other runtimes' are left alone."""
    pods = ipaddress.IPv4Network(settings.pod_cidr)
    found = []
    for path in sorted(NETWORK_NAMESPACES.glob("cni-*")):
        done = run("ip", "-netns", path.name, "-json", "-4", "address", check=False)
        try:
            links = json.loads(done.stdout or "[]")
        except ValueError:
            links = []
        addresses = [address["local"] for link in links for address in link.get("addr_info", [])]
        if any(ipaddress.IPv4Address(address) in pods for address in addresses):
            found.append(path)
    return found


def _files(settings: Settings) -> list[Path]:
    """What containerd, its network plugins and the kubelet write at places that no option changes."""
    records = sorted(_CNI_RESULTS.glob(f"{CNI_NETWORK}-*"))
    # A pod's loopback interface is recorded under a name that all users of containerd share.
    pods = [path.name.removeprefix(f"{CNI_NETWORK}-").rpartition("-")[0] for path in records]
    loopbacks = [path for pod in pods for path in _CNI_RESULTS.glob(f"cni-loopback-{pod}-*")]
    logs = str(settings.state / "pod-logs")
    links = [
        path for path in _LOG_LINKS.glob("*") if path.is_symlink() and str(path.readlink()).startswith(logs)
    ]
    socket_file = _DEVICE_PLUGINS / "kubelet.sock"
    return [*records, *loopbacks, *sorted(links), *([socket_file] if socket_file.exists() else [])]


def shim_sockets() -> list[Path]:
    """Sockets of container shims that nobody listens on any more, whichever containerd had started them."""
    return [path for path in _SHIM_SOCKETS.glob("*") if path.is_socket() and not _listens(path)]


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # it answers otherwise, so somebody is there
            return True
    return True


def emptied_directories() -> list[Path]:
    """Directories that those files leave behind; each is removed when it is empty."""
    return [
        _SHIM_SOCKETS,
        _SHIM_SOCKETS.parent,
        _CNI_RESULTS,
        _CNI_RESULTS.parent,
        _LOG_LINKS,
        _DEVICE_PLUGINS,
        _DEVICE_PLUGINS.parent,
        NETWORK_NAMESPACES,
    ]
