"""What the machine must offer, and the Debian packages that supply it."""

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_cluster import cgroups, network, ports, processes, servers
from local_cluster.configuration import CNI_PLUGINS
from local_cluster.errors import ClusterError
from local_cluster.settings import Settings
from local_cluster.shell import run, which

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "containerd": ("containerd", "ctr", "containerd-shim-runc-v2"),
    "runc": ("runc",),
    "containernetworking-plugins": (
        f"{CNI_PLUGINS}/bridge",
        f"{CNI_PLUGINS}/host-local",
        f"{CNI_PLUGINS}/loopback",
    ),
    "docker-registry": ("docker-registry",),
    "nftables": ("nft",),
    "iproute2": ("ip",),
    "openssl": ("openssl",),
    "ca-certificates": ("/etc/ssl/certs/ca-certificates.crt",),
    "mount": ("umount",),
    "util-linux": ("setpriv",),
}
"""Debian packages of the cluster, and the programs or files that show that one is there, under whatever name."""

IMAGE_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "buildah": ("buildah",),
    "skopeo": ("skopeo",),
    "mmdebstrap": ("mmdebstrap",),
}
"""The same, for building images."""

BROWSER_PROGRAMS: Mapping[str, tuple[str, ...]] = {"chromium": ("chromium",)}
"""The same, for the tests that open a report as a person does."""

_MINIMUM_FREE = 15 * 2**30
_MODULES = ("overlay", "br_netfilter", "nf_tables", "veth")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: whether it is as it must be, and a sentence."""

    name: str
    passed: bool
    sentence: str


def _present(needed: str) -> bool:
    return Path(needed).exists() if needed.startswith("/") else which(needed) is not None


def missing_packages(table: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Packages whose programs are not all on the machine."""
    return [package for package, needed in table.items() if not all(map(_present, needed))]


def missing_programs() -> list[str]:
    """Packages that running the cluster needs and the machine lacks."""
    return missing_packages(PROGRAMS)


def system_programs() -> dict[str, Path]:
    """Paths of the servers that come from Debian."""
    found = {name: which(name) for name in ("containerd", "docker-registry")}
    return {name: path for name, path in found.items() if path}


def require(missing: Iterable[str], what: str) -> None:
    """Refuse to go on without root or with packages missing.

    Raises:
        ClusterError: one of both is so; the message says what to do.
    """
    if os.geteuid() != 0:
        raise ClusterError(f"{what} needs root, since it starts containers; run it as root (with sudo)")
    names = list(missing)
    if names:
        raise ClusterError(
            f"{what} needs the Debian package{'s' if len(names) > 1 else ''} {', '.join(names)}; "
            "`python -m local_cluster packages` installs what is missing"
        )
    load_modules()


def load_modules() -> None:
    """Load the kernel's modules that may not be loaded yet; a kernel with everything built in needs none."""
    modprobe = which("modprobe")
    for module in _MODULES if modprobe else ():
        run(str(modprobe), "--quiet", module, check=False)


def examine(settings: Settings) -> list[Check]:
    """Look at everything that `up` depends on."""
    return [
        _system(),
        _root(),
        _python(),
        _packages(),
        *(_kernel() if os.geteuid() == 0 else ()),
        _cgroups(),
        _disk(settings),
        _ports(settings),
    ]


def room(settings: Settings) -> list[Check]:
    """Of these, what a long first run would otherwise end on: disk space and ports. Cheap, and without root."""
    return [_disk(settings), _ports(settings)]


def _system() -> Check:
    text = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
    fits = sys.platform == "linux" and "debian" in names and which("apt-get") is not None
    name = fields.get("PRETTY_NAME", sys.platform).strip('"')
    return Check("system", fits, name if fits else f"{name} is not a Debian-like Linux with apt-get")


def _root() -> Check:
    is_root = os.geteuid() == 0
    return Check("root", is_root, "root" if is_root else "containers need root: run it with sudo")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= (3, 11)
    return Check("python", fits, version if fits else f"{version} is older than 3.11")


def _packages() -> Check:
    missing = missing_packages({**PROGRAMS, **IMAGE_PROGRAMS})
    hint = f"missing: {', '.join(missing)}; `python -m local_cluster packages` installs them"
    return Check("packages", not missing, hint if missing else "all there")


def _kernel() -> list[Check]:
    load_modules()
    filesystems = Path("/proc/filesystems").read_text().split()
    bridges = Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
    rules = which("nft") is not None and run("nft", "list", "tables", check=False).returncode == 0
    blocked = network.forwarding_blocked() if rules else False
    dropped = "another rule set drops forwarded packets (Docker does): allow knbr0 in its chain, or pods reach nothing"
    return [
        Check("overlay", "overlay" in filesystems, "overlay file system, for the images"),
        Check("bridge", bridges, "bridge netfilter (module br_netfilter), for services between pods"),
        Check("nftables", rules, "nftables, for services"),
        Check("forwarding", not blocked, dropped if blocked else "nothing drops forwarded packets"),
    ]


def _cgroups() -> Check:
    missing = cgroups.missing_controllers()
    version = "version 2" if cgroups.unified() else "version 1"
    return Check("cgroups", not missing, f"{version}, without {', '.join(missing)}" if missing else version)


def _disk(settings: Settings) -> Check:
    directory = settings.state
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    text = f"{free / 2**30:.0f} GiB free at {directory}"
    enough = free >= _MINIMUM_FREE
    return Check("disk", enough, text if enough else f"{text}, less than {_MINIMUM_FREE / 2**30:.0f} GiB")


def _ports(settings: Settings) -> Check:
    taken = [
        f"{port} by {holder}"
        for name, addresses in servers.listeners(settings).items()
        if processes.running(settings, name) is None
        for address, port in addresses
        if (holder := ports.holder(address, port))
    ]
    return Check(
        "ports", not taken, f"held by others: {', '.join(taken)}" if taken else "free, or the cluster's own"
    )
