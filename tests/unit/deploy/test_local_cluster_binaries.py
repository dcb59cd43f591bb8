"""Binaries come from where the user says, and what is cached is never stale."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from local_cluster import binaries, toolchain
from local_cluster.errors import ClusterError
from local_cluster.kubectl import client_minor
from local_cluster.progress import Progress
from local_cluster.settings import Settings

pytestmark = pytest.mark.unit
SOURCES = Settings().go_sources


@pytest.fixture
def progress() -> Progress:
    return Progress(Console(quiet=True))


def program(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.touch(mode=0o755)
    return path


def test_the_directory_that_the_user_names_comes_before_the_cache(tmp_path: Path, progress: Progress) -> None:
    settings = Settings(cache=tmp_path / "cache", bin_dir=tmp_path / "own")
    own = program(tmp_path / "own", "etcd")
    cached = program(binaries.cache_directory(settings, "kubelet"), "kubelet")
    program(binaries.cache_directory(settings, "etcd"), "etcd")
    assert binaries.obtain(settings, progress, ["etcd", "kubelet"]) == {"etcd": own, "kubelet": cached}


def test_a_named_directory_that_does_not_exist_is_refused(tmp_path: Path, progress: Progress) -> None:
    settings = Settings(cache=tmp_path, bin_dir=tmp_path / "nowhere")
    with pytest.raises(ClusterError, match="nowhere is not a directory"):
        binaries.obtain(settings, progress, ["etcd"])


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "pause/main.go", "coredns/main.go"])
def test_a_change_of_any_source_changes_the_key_of_the_cache(tmp_path: Path, name: str) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "go")
    before = binaries.cache_key(sources)
    assert before == binaries.cache_key(SOURCES)
    with (sources / name).open("a") as file:
        file.write("\n")
    assert binaries.cache_key(sources) != before


def test_the_version_is_stamped_so_that_clients_can_compare_it() -> None:
    flags = binaries.linker_flags("v1.36.3")
    assert "-X k8s.io/component-base/version.gitMinor=36" in flags
    assert "-X k8s.io/client-go/pkg/version.gitVersion=v1.36.3" in flags


def test_the_pinned_version_of_kubernetes_is_read_from_go_mod() -> None:
    assert binaries.kubernetes_version((SOURCES / "go.mod").read_text()) == "v1.36.3"
    with pytest.raises(ClusterError, match=r"does not require k8s\.io/kubernetes"):
        binaries.kubernetes_version("module x\n")


def test_every_kubernetes_server_is_pinned_as_a_tool_of_the_module() -> None:
    text = (SOURCES / "go.mod").read_text()
    for package in binaries.PACKAGES.values():
        assert package.startswith("./") or f"\t{package}\n" in text


def test_every_peer_is_pinned_as_the_tool_of_a_module_of_its_own(tmp_path: Path, progress: Progress) -> None:
    settings = Settings(cache=tmp_path)
    for name, package in binaries.PEERS.items():
        text = (SOURCES.parent / "peers" / name / "go.mod").read_text()
        assert f"tool {package}\n" in text
        binary = program(binaries.cache_directory(settings, name), name)
        assert binaries.obtain(settings, progress, [name]) == {name: binary}
    assert len({binaries.cache_directory(settings, name) for name in ("etcd", *binaries.PEERS)}) == 1 + len(
        binaries.PEERS
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go1.26.8", (1, 26, 8)),
        ("go version go1.27 linux/amd64", (1, 27)),
        ("go1.26rc2", (1, 26)),
        ("", None),
    ],
)
def test_the_version_of_a_toolchain_is_read_from_what_it_says(
    text: str, version: tuple[int, ...] | None
) -> None:
    assert toolchain.parse_version(text) == version


def test_the_toolchain_that_is_needed_is_the_one_of_go_mod() -> None:
    assert toolchain.required_go("module x\n\ngo 1.26.0\n") == (1, 26, 0)
    with pytest.raises(ClusterError, match="no `go` line"):
        toolchain.required_go("module x\n")


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ('{"clientVersion": {"major": "1", "minor": "36"}}', 36),
        ('{"clientVersion": {"major": "1", "minor": "32+"}}', 32),
        ('{"clientVersion": {}}', None),
        ("[]", None),
        ("Client Version: v1.36.0", None),
    ],
)
def test_the_minor_version_of_kubectl_is_read_or_not_known(text: str, minor: int | None) -> None:
    assert client_minor(text) == minor
