"""Uninstalling in every state, on a real API server: it ends within a minute, and only what was asked for stays."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.support.documented import commands
from tests.support.manifests import REMOVED, manifest
from tests.support.operator_cluster import NAMESPACE, Cluster
from tests.support.operator_process import DEPLOY, SYSTEM, until

from local_cluster import operator_install
from local_cluster.control_plane import ApiServer
from local_cluster.errors import ClusterError
from local_cluster.installed import DEFINITION, FINALIZER, LEASE, Installed
from local_cluster.kubectl import Kubectl, find_kubectl
from local_cluster.progress import Progress
from local_cluster.shell import run
from local_cluster.target import Target
from local_cluster.uninstall import Jobs, uninstall
from quantization_operator import snapshots
from quantization_operator.settings import OperatorSettings
from quantization_operator.workload import cleanup_name

pytestmark = pytest.mark.integration

A_MINUTE = 60
DELETE = ("artifactPolicy", "Delete")


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        yield server


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    """The operator's manifests installed; the jobs that a test leaves go at its end."""
    operator_install.wait_for_earlier_removal(target(api), quiet())
    made = Cluster(api, tmp_path)
    yield made
    made.close()
    installed = Installed(target(api).kubectl)
    if installed.definition():
        installed.remove_jobs()
        installed.release(installed.jobs())
        until("no job", lambda: not installed.jobs())


def target(api: ApiServer) -> Target:
    minor = int(json.loads(api.kubectl("version", "-o", "json").stdout)["serverVersion"]["minor"])
    return Target(Kubectl(find_kubectl(minor), api.kubeconfig), str(api.kubeconfig))


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def removed(cluster: Cluster, choice: Jobs | None, patience: float = 30) -> list[str]:
    """Uninstall, within a minute; what is left to do."""
    began = time.monotonic()
    left = uninstall(target(cluster.api), choice, quiet(), patience)
    assert time.monotonic() - began < A_MINUTE
    return left


def nothing_is_left(api: ApiServer) -> bool:
    installed = Installed(target(api).kubectl)
    assert installed.definition() is None
    assert not installed.jobs()
    assert not installed.workloads()
    assert not installed.operator()
    assert not installed.beside_the_kind()
    assert not installed.leases()
    assert not installed.namespaces()
    return True


def stuck_definition(api: ApiServer) -> None:
    """What an uninstall by hand leaves: the kind is being deleted, and an object waits for an operator that is gone."""
    api.kubectl("annotate", "crd", DEFINITION, "quantization.dev/delete=allowed")
    api.kubectl("delete", "crd", DEFINITION, "--wait=false")


def runs(cluster: Cluster, name: str, *changes: tuple[str, Any]) -> str:
    uid = cluster.submit(name, *changes)
    cluster.kubelet_says(cluster.pod(uid), "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    cluster.phase(name, "Running")
    return uid


def test_the_names_here_are_the_operators() -> None:
    assert FINALIZER == snapshots.FINALIZER
    assert OperatorSettings().lease_name == LEASE


def test_deleting_the_operators_manifests_leaves_the_kind_and_every_job(cluster: Cluster) -> None:
    cluster.submit("stays", DELETE)
    cluster.api.kubectl("delete", "-k", DEPLOY / "base", "--wait=false", "--ignore-not-found")
    definition = json.loads(cluster.api.kubectl("get", "crd", DEFINITION, "-o", "json").stdout)
    assert "deletionTimestamp" not in definition["metadata"]
    assert "deletionTimestamp" not in cluster.read("qj", "stays")["metadata"]


@pytest.mark.parametrize("by", [("crd", DEFINITION), ("-k", str(DEPLOY / "crd"))], ids=lambda by: by[0])
def test_the_kind_is_deleted_on_purpose_only(cluster: Cluster, by: tuple[str, str]) -> None:
    cluster.submit("kept")

    def answer(*options: str) -> str:
        said = cluster.api.kubectl("delete", *by, "--wait=false", *options, check=False)
        return said.stderr if said.returncode else ""

    until("the policy is in force", lambda: "every QuantizationJob" in answer("--dry-run=server"))
    assert "make uninstall JOBS=delete" in answer()
    assert cluster.read("qj", "kept")


def test_nothing_is_removed_before_somebody_says_what_becomes_of_the_jobs(cluster: Cluster) -> None:
    cluster.submit("one")
    with pytest.raises(
        ClusterError, match=r"1 QuantizationJob, 1 of them unfinished; .*JOBS=keep .*JOBS=delete"
    ):
        removed(cluster, None)
    assert Installed(target(cluster.api).kubectl).operator()
    assert "deletionTimestamp" not in cluster.read("qj", "one")["metadata"]


def test_without_jobs_nothing_is_asked(cluster: Cluster) -> None:
    assert removed(cluster, None) == []
    assert nothing_is_left(cluster.api)
    assert removed(cluster, None) == [], "twice is as good as once"


def test_the_operator_removes_artifacts_before_it_goes(cluster: Cluster) -> None:
    with cluster.operator(lease_namespace=SYSTEM, lease_name=LEASE):
        plain, uid = runs(cluster, "running"), runs(cluster, "with-artifact", DELETE)
        cleaned: list[str] = []

        def kubelet() -> bool:
            pods = cluster.items("pods", "app.kubernetes.io/component=cleanup")
            for pod in pods:
                cluster.ends(pod["metadata"]["name"], 0)
                cleaned.append(pod["metadata"]["labels"]["quantization.dev/job-uid"])
            return bool(pods)

        beside(lambda: until("a pod that cleans up", kubelet))
        assert removed(cluster, Jobs.DELETE) == []
        assert set(cleaned) == {uid}
        assert not cluster.jobs(plain)
    assert nothing_is_left(cluster.api)


@pytest.mark.nightly
def test_the_documented_commands_remove_everything_without_a_checkout(cluster: Cluster) -> None:
    cluster.submit("by-hand")
    for command in commands():
        program, *words = command.words
        if (
            command.place == "docs/operations.md"
            and program == "kubectl"
            and words[0] in ("delete", "annotate")
        ):
            cluster.api.kubectl(*words)
    assert nothing_is_left(cluster.api)


def beside(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()


def test_with_the_operator_gone_jobs_go_and_artifacts_are_named(cluster: Cluster) -> None:
    with cluster.operator():
        runs(cluster, "abandoned", DELETE)
        cluster.submit("plain")
    left = removed(cluster, Jobs.DELETE)
    uri = "s3://artifacts/abandoned"
    assert left == [
        f"the artifact of {NAMESPACE}/abandoned may still be at {uri}; `quantizer delete {uri}` removes it by hand"
    ]
    assert nothing_is_left(cluster.api)


@pytest.mark.nightly
def test_a_clean_up_that_does_not_end_is_let_go(cluster: Cluster) -> None:
    with cluster.operator(lease_namespace=SYSTEM, lease_name=LEASE):
        uid = runs(cluster, "slow", DELETE)
        left = removed(cluster, Jobs.DELETE, patience=3)
        assert "s3://artifacts/slow" in left[0]
        assert not cluster.read("job", cleanup_name("slow", uid))
    assert nothing_is_left(cluster.api)


@pytest.mark.nightly
def test_what_an_uninstall_by_hand_left_stuck_is_ended(cluster: Cluster) -> None:
    with cluster.operator():
        runs(cluster, "stuck", DELETE)
    stuck_definition(cluster.api)
    with pytest.raises(ClusterError, match=r"is being deleted and does not go: .*make uninstall JOBS=delete"):
        operator_install.wait_for_earlier_removal(target(cluster.api), quiet(), limit=1)
    left = removed(cluster, None)
    assert "s3://artifacts/stuck" in left[0]
    assert nothing_is_left(cluster.api)
    operator_install.wait_for_earlier_removal(target(cluster.api), quiet(), limit=1)


def test_kept_jobs_are_taken_up_again_by_the_next_operator(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.operator():
        uid = runs(cluster, "kept-running", DELETE)
        before = cluster.read("qj", "kept-running")["spec"]
    assert removed(cluster, Jobs.KEEP) == []
    installed = Installed(target(cluster.api).kubectl)
    assert not installed.operator()
    assert not installed.namespaces()
    assert cluster.jobs(uid), "its pod runs on"
    again = Cluster(cluster.api, tmp_path)
    with again.operator():
        again.succeeds(again.pod(uid))
        again.wait("kept-running", "Ready")
    assert again.read("qj", "kept-running")["spec"] == before


@pytest.mark.nightly
def test_an_operators_namespace_with_jobs_in_it_stays_with_them(cluster: Cluster) -> None:
    body = manifest(("output.uri", "s3://artifacts/inside"), ("storage", REMOVED))
    body["metadata"] |= {"name": "inside", "namespace": SYSTEM}
    cluster.apply(body)
    assert removed(cluster, Jobs.KEEP) == []
    assert cluster.api.kubectl("get", "qj", "inside", "-n", SYSTEM).stdout
    assert not Installed(target(cluster.api).kubectl).operator()


@pytest.mark.nightly
def test_the_finalizer_of_another_is_left_to_them_and_named(cluster: Cluster) -> None:
    cluster.submit("foreign")
    hold = ("patch", "qj", "foreign", "-n", NAMESPACE, "--type=merge", "-p")
    cluster.api.kubectl(*hold, json.dumps({"metadata": {"finalizers": ["example.com/backup"]}}))
    with pytest.raises(ClusterError, match=r"team/foreign, held by the finalizer example\.com/backup"):
        uninstall(target(cluster.api), Jobs.DELETE, quiet(), patience=0)
    cluster.api.kubectl(*hold, json.dumps({"metadata": {"finalizers": None}}))


@pytest.mark.nightly
def test_what_helm_installed_is_left_to_helm_and_named(cluster: Cluster) -> None:
    labels = json.dumps(
        {
            "metadata": {
                "labels": {"app.kubernetes.io/managed-by": "Helm"},
                "annotations": {
                    "meta.helm.sh/release-name": "quant",
                    "meta.helm.sh/release-namespace": SYSTEM,
                },
            }
        }
    )
    cluster.api.kubectl("patch", "sa", "quantization-operator", "-n", SYSTEM, "--type=merge", "-p", labels)
    left = removed(cluster, None)
    assert left == [
        f"the operator in {SYSTEM} was installed by Helm: `helm uninstall quant --namespace {SYSTEM}` removes it"
    ]
    assert cluster.api.kubectl("get", "sa", "quantization-operator", "-n", SYSTEM).stdout
    cluster.api.kubectl(
        *("label", "sa", "quantization-operator", "-n", SYSTEM, "app.kubernetes.io/managed-by-")
    )


@pytest.mark.nightly
def test_a_hundred_jobs_go_within_a_minute(cluster: Cluster) -> None:
    bodies = []
    for number in range(100):
        body = manifest(("output.uri", f"s3://artifacts/{number}"), DELETE)
        body["metadata"] |= {"name": f"many-{number}", "namespace": NAMESPACE, "finalizers": [FINALIZER]}
        bodies.append(body)
    cluster.api.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(bodies))
    assert len(removed(cluster, Jobs.DELETE)) == 100
    assert nothing_is_left(cluster.api)


@pytest.mark.nightly
def test_the_command_says_in_one_sentence_what_it_needs(cluster: Cluster) -> None:
    cluster.submit("asked")
    command = (sys.executable, "-m", "local_cluster", "uninstall", "--cluster", "current")
    done = run(*command, env={"KUBECONFIG": str(cluster.api.kubeconfig)}, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the cluster has 1 QuantizationJob")
    assert run(*command, "--jobs", "delete", env={"KUBECONFIG": str(cluster.api.kubeconfig)}).returncode == 0
    assert nothing_is_left(cluster.api)
