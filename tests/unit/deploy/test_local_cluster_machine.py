"""What the machine holds is seen: ports, networks, mounts; and what is missing is named."""

import http.server
import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from local_cluster import images, machine, network, ports, traces
from local_cluster.errors import ClusterError
from local_cluster.settings import Settings
from local_cluster.shell import CommandError, run

pytestmark = pytest.mark.unit
SETTINGS = Settings()


def test_the_holder_of_a_port_is_named_while_it_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"(process {os.getpid()})" in (ports.holder("127.0.0.1", port) or "")
        assert ports.holder("10.252.0.1", port) is None
    assert ports.holder("127.0.0.1", port) is None


def test_a_listener_on_all_addresses_holds_the_port_of_each(listening_on_all_addresses: str) -> None:
    assert ports.parse_listeners(listening_on_all_addresses) == [("0.0.0.0", 5000, 1234)]
    assert ports.conflicts("10.252.0.1", "0.0.0.0")
    assert ports.conflicts("127.0.0.1", "::")
    assert not ports.conflicts("127.0.0.1", "10.252.0.1")


@pytest.fixture
def listening_on_all_addresses() -> str:
    heading = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    listening = (
        "   0: 00000000:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1\n"
    )
    connected = (
        "   1: 0100007F:1388 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1235 1\n"
    )
    return heading + listening + connected


def link(name: str, address: str) -> network.Link:
    return {"ifname": name, "addr_info": [{"family": "inet", "local": address}]}


@pytest.mark.parametrize(
    ("links", "routes", "conflict"),
    [
        ([link("eth0", "192.0.2.2")], [{"dst": "default", "dev": "eth0"}], None),
        (
            [link("kn0", "10.252.0.1"), link("knbr0", "10.251.0.1")],
            [{"dst": "10.251.0.0/16", "dev": "knbr0"}],
            None,
        ),
        ([], [{"dst": "10.0.0.0/8", "dev": "vpn0"}], None),
        ([link("vpn0", "10.251.7.1")], [], "interface vpn0 has 10.251.7.1, which is in 10.251.0.0/16"),
        ([link("eth1", "10.252.0.1")], [], "interface eth1 has 10.252.0.1, which is in 10.252.0.1/32"),
        (
            [],
            [{"dst": "10.96.3.0/24", "dev": "vpn0"}],
            "a route to 10.96.3.0/24 by vpn0 lies in 10.96.0.0/16",
        ),
        ([], [{"dst": "10.251.9.9", "dev": "tun1"}], "a route to 10.251.9.9 by tun1 lies in 10.251.0.0/16"),
    ],
    ids=["ordinary", "our own", "a wider route", "an address of pods", "the node's", "services", "one pod's"],
)
def test_foreign_networks_inside_the_clusters_ranges_are_named(
    links: list[network.Link], routes: list[dict[str, str]], conflict: str | None
) -> None:
    assert network.conflicting_networks(links, routes, SETTINGS) == ([conflict] if conflict else [])


def test_mounts_below_the_state_are_listed_deepest_first() -> None:
    mountinfo = "\n".join(
        f"1 2 0:1 / {point} rw - tmpfs tmpfs rw"
        for point in ["/", "/state", "/state/a", "/state/a/b\\040c", "/statex/a"]
    )
    assert traces.mounts_below(mountinfo, Path("/state")) == ["/state/a/b c", "/state/a"]


def test_each_trace_has_its_sentence() -> None:
    found = traces.Traces(processes={7: "etcd"}, interfaces=["kn0"], files=[Path("/x")])
    assert found.sentences() == [
        "process 7 (etcd) is still there",
        "interface kn0 is still there",
        "/x is still there",
    ]
    assert traces.Traces().sentences() == []


def test_missing_packages_are_named_and_present_ones_are_not() -> None:
    table = {
        "coreutils": ("true", "/dev/null"),
        "nothing": ("no-such-program",),
        "half": ("true", "/no/such/file"),
    }
    assert machine.missing_packages(table) == ["nothing", "half"]


def test_a_machine_without_the_packages_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(
        ClusterError, match=r"the Debian packages runc, nftables; `python -m local_cluster packages`"
    ):
        machine.require(["runc", "nftables"], "the local cluster")


def test_a_user_without_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="needs root"):
        machine.require([], "the local cluster")


def test_a_program_that_fails_is_shown_with_what_it_said() -> None:
    with pytest.raises(CommandError, match=r"`sh -c .*` ended with exit code 3:\nno luck") as error:
        run("sh", "-c", "echo no luck >&2; exit 3")
    assert error.value.returncode == 3


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ClusterError, match="`no-such-program` is not on this machine"):
        run("no-such-program")


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_registry_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ClusterError, match="QUANTIZATION_REGISTRY_PORT is"):
        Settings.from_environment({"QUANTIZATION_REGISTRY_PORT": port})


def test_a_state_directory_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(ClusterError, match="name a shorter QUANTIZATION_LOCAL_DIR"):
        Settings.from_environment({"QUANTIZATION_LOCAL_DIR": "/" + "x" * 80})


def test_directories_come_from_the_environment() -> None:
    settings = Settings.from_environment({"QUANTIZATION_CACHE_DIR": "/c", "QUANTIZATION_BIN_DIR": "/b"})
    assert (settings.cache, settings.state, settings.bin_dir) == (Path("/c"), Path("/c/cluster"), Path("/b"))
    assert Settings.from_environment({"QUANTIZATION_LOCAL_DIR": "/s"}).kubeconfig == Path("/s/kubeconfig")


def test_disk_space_and_ports_are_looked_at_before_a_long_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = Settings(state=tmp_path / "cluster", registry_port=server.getsockname()[1])
        disk, held = machine.room(taken)
    assert disk.name == "disk"
    assert f"GiB free at {tmp_path}" in disk.sentence
    assert not held.passed
    assert f"{taken.registry_port} by" in held.sentence
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**30))
    disk, _ = machine.room(taken)
    assert not disk.passed
    assert "less than 15 GiB" in disk.sentence


def test_the_compressed_size_of_an_image_is_that_of_what_a_node_pulls(tmp_path: Path) -> None:
    manifest = {"config": {"size": 5}, "layers": [{"size": 1_000_000}, {"size": 20}]}

    class Registry(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v2/quantizer/manifests/sha256:a" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(manifest).encode())

        def log_message(self, *_: object) -> None:
            """Silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings(state=tmp_path, registry_port=server.server_address[1])
        assert images.compressed_size(settings, f"{settings.registry}/quantizer@sha256:a") == 1_000_025
        with pytest.raises(ClusterError, match="does not show"):
            images.compressed_size(settings, f"{settings.registry}/quantizer@sha256:b")
        server.shutdown()
