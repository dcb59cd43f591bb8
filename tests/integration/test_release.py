"""`make release`, and what a user does with dist/: one file installs the operator on a real API server."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from tests.support.operator_process import SYSTEM, until

from local_cluster.control_plane import ApiServer
from local_cluster.images import ROOT
from local_cluster.shell import run
from quantization_api import ENGINE_VERSION

pytestmark = pytest.mark.integration

REGISTRY = "registry.example.com/team"


def release(directory: Path) -> dict[str, bytes]:
    run(sys.executable, "-m", "deploy.release", "--directory", directory, "--registry", REGISTRY, cwd=ROOT)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release") / "dist"
    release(directory)
    return directory


def test_a_release_is_complete_and_its_checksums_hold(dist: Path) -> None:
    names = {path.name.replace(ENGINE_VERSION, "VERSION") for path in dist.iterdir()}
    assert names == {
        *("crd.yaml", "operator.yaml", "install.yaml", "SHA256SUMS"),
        *("kubectl-quantization-VERSION.tar.gz", "quantization.yaml"),
        "quantization-operator-VERSION.tgz",
        "quantization_operator-VERSION-py3-none-any.whl",
        *(f"{name}-VERSION.cdx.json" for name in ("quantization-operator", "quantizer", "quantizer-legacy")),
    }
    checked = run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=dist).stdout
    assert checked.count(": OK") == len(names) - 1


@pytest.mark.nightly
def test_the_same_checkout_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in dist.iterdir()}
    assert release(tmp_path / "dist") == first


def test_one_file_installs_everything_and_names_the_releases_images(dist: Path) -> None:
    with ApiServer(controllers=True) as api:
        api.kubectl(
            "apply", "-f", dist / "install.yaml"
        )  # without --server-side: the kind must not be too large
        api.kubectl("apply", "--server-side", "--force-conflicts", "-f", dist / "install.yaml")
        pods = ("get", "pods", "-n", SYSTEM, "-o", "json")
        until("the operator's pods", lambda: len(json.loads(api.kubectl(*pods).stdout)["items"]) == 2)
        for pod in json.loads(api.kubectl(*pods).stdout)["items"]:
            assert (
                pod["spec"]["containers"][0]["image"] == f"{REGISTRY}/quantization-operator:{ENGINE_VERSION}"
            )
        api.kubectl("delete", "-f", dist / "operator.yaml", "--wait=false")
        assert api.kubectl("get", "qj", "-A").returncode == 0


def test_the_file_is_the_kind_and_the_operator(dist: Path) -> None:
    parts = [list(yaml.safe_load_all((dist / f"{name}.yaml").read_text())) for name in ("crd", "operator")]
    assert list(yaml.safe_load_all((dist / "install.yaml").read_text())) == parts[0] + parts[1]
