"""The parts that the cluster is made of: certificates, images, configuration and the proof that it works."""

import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from local_cluster import configuration, identity, proof, servers
from local_cluster.archive import architecture, write_archive
from local_cluster.certificates import Authority
from local_cluster.settings import Settings
from local_cluster.shell import run

pytestmark = pytest.mark.unit


def test_issued_certificates_are_valid_for_their_use_only(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "ca")
    server = authority.server("server", "kube-apiserver", ["DNS:localhost", "IP:127.0.0.1"])
    client = authority.client("client", "system:node:local", "system:nodes")
    for pair, purpose, other in ((server, "sslserver", "sslclient"), (client, "sslclient", "sslserver")):
        verify = ("openssl", "verify", "-x509_strict", "-CAfile", authority.pair.certificate, "-purpose")
        run(*verify, purpose, pair.certificate)
        assert run(*verify, other, pair.certificate, check=False).returncode != 0
        assert pair.key.stat().st_mode & 0o077 == 0
    subject = run(
        "openssl", "x509", "-in", client.certificate, "-noout", "-subject", "-nameopt", "RFC2253"
    ).stdout
    assert subject.strip() == "subject=CN=system:node:local,O=system:nodes"


def test_another_authority_does_not_vouch_for_them(tmp_path: Path) -> None:
    client = Authority.create(tmp_path / "a", "ca").client("client", "admin")
    other = Authority.create(tmp_path / "b", "ca").pair.certificate
    assert run("openssl", "verify", "-CAfile", other, client.certificate, check=False).returncode != 0


def test_the_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path)
    first = identity.establish(settings)
    content = first.api_server.certificate.read_bytes()
    second = identity.establish(settings)
    assert second.api_server.certificate.read_bytes() == content
    assert settings.kubeconfig.stat().st_mode & 0o077 == 0
    cluster = yaml.safe_load(settings.kubeconfig.read_text())["clusters"][0]["cluster"]
    assert cluster["server"] == "https://10.252.0.1:6443"


def test_an_image_of_a_program_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    for name in ("one.tar", "two.tar"):
        write_archive(tmp_path / name, "localhost/pause:1", program)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json") or pytest.fail("no manifest"))[0]
        assert manifest["RepoTags"] == ["localhost/pause:1"]
        configuration_file = json.load(
            archive.extractfile(manifest["Config"]) or pytest.fail("no configuration")
        )
    assert configuration_file["config"] == {"Entrypoint": ["/pause"], "User": "65532:65532"}


@pytest.mark.parametrize(
    ("kernel", "image"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")]
)
def test_the_architecture_has_the_name_that_images_use(kernel: str, image: str) -> None:
    assert architecture(kernel) == image


def test_every_listener_is_on_loopback_or_on_the_nodes_own_address() -> None:
    settings = Settings()
    allowed = {"127.0.0.1", settings.node_ip}
    assert {
        address for listeners in servers.listeners(settings).values() for address, _ in listeners
    } <= allowed
    registry = yaml.safe_load(configuration.registry(settings))
    assert registry["http"]["addr"] == "127.0.0.1:5000"


def test_the_kubelet_refuses_anonymous_requests_and_confines_by_default(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path)
    document = yaml.safe_load(configuration.kubelet(settings, identity.establish(settings)))
    assert document["authentication"]["anonymous"] == {"enabled": False}
    assert document["readOnlyPort"] == 0
    assert document["seccompDefault"] is True


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lease", "fresh"),
    [
        (b'{"spec": {"renewTime": "2026-01-01T12:00:01.000000Z"}}', True),
        (b'{"spec": {"renewTime": "2026-01-01T11:59:59.000000Z"}}', False),
        (b'{"spec": {}}', False),
        (None, False),
    ],
    ids=["renewed since", "from before the restart", "never renewed", "no lease"],
)
def test_a_lease_from_before_the_start_proves_nothing(lease: bytes | None, fresh: bool) -> None:
    assert proof.lease_renewed(lease, NOW) is fresh


def test_the_status_of_a_condition_is_found_by_its_type() -> None:
    conditions = [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": "True"}]
    node = json.dumps({"status": {"conditions": conditions}}).encode()
    assert proof.condition(node, "Ready") == "True"
    assert proof.condition(node, "Other") is None
    assert proof.condition(None, "Ready") is None
