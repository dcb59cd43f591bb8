"""The node's own address, the kernel settings that pods need, and how both are taken back."""

import contextlib
import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from local_cluster.errors import ClusterError
from local_cluster.processes import boot_id
from local_cluster.settings import Settings
from local_cluster.shell import run

_WANTED = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}
_CHANGED_BY_KUBELET = ("vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops")
_KEYS_CHANGED_BY_KUBELET = ("kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes")

Link = dict[str, Any]


def conflicting_networks(
    links: Iterable[Link], routes: Iterable[dict[str, Any]], settings: Settings
) -> list[str]:
    """Name the foreign interfaces whose addresses or routes lie inside the cluster's ranges.

    A wider foreign route (a VPN's 10.0.0.0/8) is no conflict: the cluster's own, narrower ones come first.

    Args:
        links: what `ip -json address` says.
        routes: what `ip -json route` says.
    """
    node = f"{settings.node_ip}/32"
    ours = [ipaddress.IPv4Network(text) for text in (node, settings.pod_cidr, settings.service_cidr)]
    own_links = (settings.node_bridge, settings.pod_bridge)
    found = []
    for link in links:
        for address in link.get("addr_info", []):
            inside = [
                n
                for n in ours
                if address["family"] == "inet" and ipaddress.IPv4Address(address["local"]) in n
            ]
            if inside and link["ifname"] not in own_links:
                found.append(f"interface {link['ifname']} has {address['local']}, which is in {inside[0]}")
    for route in routes:
        if route["dst"] == "default" or route.get("dev") in own_links:
            continue
        network = ipaddress.IPv4Network(route["dst"])
        inside = [each for each in ours if network.subnet_of(each)]
        if inside:
            found.append(f"a route to {route['dst']} by {route.get('dev', '?')} lies in {inside[0]}")
    return found


def _ip(*arguments: str) -> Any:
    return json.loads(run("ip", "-json", *arguments).stdout or "[]")


def link(name: str) -> Link | None:
    """What the kernel says of an interface; None when there is none of that name."""
    done = run("ip", "-json", "-details", "address", "show", "dev", name, check=False)
    found = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    return found[0] if found else None


def set_up(settings: Settings) -> None:
    """Give the node its address, on a bridge without ports, and a way for the host itself to the services.

    Raises:
        ClusterError: another interface or route uses the cluster's addresses, or another thing has the bridge's name.
    """
    conflicts = conflicting_networks(_ip("address"), _ip("-4", "route"), settings)
    if conflicts:
        raise ClusterError(
            f"the cluster's addresses are in use: {'; '.join(conflicts)}. Take that interface down first"
        )
    for name in (settings.node_bridge, settings.pod_bridge):
        existing = link(name)
        if existing and existing.get("linkinfo", {}).get("info_kind") != "bridge":
            raise ClusterError(
                f"an interface named {name} exists and is not a bridge; the cluster needs that name"
            )
    _remember_settings(settings)
    if link(settings.node_bridge) is None:
        run("ip", "link", "add", settings.node_bridge, "type", "bridge")
    run("ip", "address", "replace", f"{settings.node_ip}/32", "dev", settings.node_bridge)
    run("ip", "link", "set", settings.node_bridge, "up")
    # Without it a host that has no default route could not send to a service's address at all.
    run("ip", "route", "replace", settings.service_cidr, "dev", settings.node_bridge)
    for name, value in _WANTED.items():
        _path(name).write_text(value)


def take_down(settings: Settings) -> None:
    """Remove both bridges and kube-proxy's rules, and put the kernel's settings back."""
    for family in ("ip", "ip6"):
        run("nft", "delete", "table", family, "kube-proxy", check=False)
    for name in (settings.pod_bridge, settings.node_bridge):
        if link(name):
            run("ip", "link", "delete", name)
    memory = _memory(settings)
    try:
        remembered = json.loads(memory.read_text())
    except (FileNotFoundError, ValueError):
        return
    if remembered.get("boot") == boot_id():  # a restart of the machine has put them back already
        for name, value in remembered["values"].items():
            _path(name).write_text(value)
    memory.unlink()


def rule_tables() -> list[str]:
    """kube-proxy's nftables tables that exist, as `ip kube-proxy`."""
    said = run("nft", "list", "tables", check=False).stdout
    return [line.removeprefix("table ") for line in said.splitlines() if line.endswith(" kube-proxy")]


def forwarding_blocked() -> bool:
    """Whether a foreign rule set drops forwarded packets unless told otherwise, as Docker's does."""
    try:
        rules = json.loads(run("nft", "-j", "list", "chains", check=False).stdout or "{}")
    except ValueError:
        return False
    chains = [item["chain"] for item in rules.get("nftables", []) if "chain" in item]
    return any(chain.get("hook") == "forward" and chain.get("policy") == "drop" for chain in chains)


def _path(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def _memory(settings: Settings) -> Path:
    return settings.state / "kernel-settings.json"


def _remember_settings(settings: Settings) -> None:
    """Note the kernel's settings before the first change since the machine was started."""
    memory = _memory(settings)
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(memory.read_text()).get("boot") == boot_id():
            return
    names = (*_WANTED, *_CHANGED_BY_KUBELET, *_KEYS_CHANGED_BY_KUBELET)
    values = {name: _path(name).read_text().strip() for name in names if _path(name).exists()}
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({"boot": boot_id(), "values": values}))
