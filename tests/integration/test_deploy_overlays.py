"""Everything below deploy is taken by a real API server as it stands, and each overlay does what its head says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.crd import until_kinds_are_served
from tests.support.operator_process import (
    DEPLOY,
    SYSTEM,
    Operator,
    install,
    make_namespace,
    rendered,
    service_account_kubeconfig,
    until,
)

from local_cluster import kueue
from local_cluster.control_plane import ApiServer
from local_cluster.progress import Progress
from local_cluster.settings import Settings

pytestmark = pytest.mark.integration

KUSTOMIZATIONS = sorted(path.parent for path in DEPLOY.rglob("kustomization.yaml"))
NOT_SERVED = {"argocd", "monitoring"}
"""What is for Argo CD and the Prometheus operator, whose kinds an API server alone does not know."""
FOR_A_CLUSTER = [
    path for path in sorted((DEPLOY / "examples").glob("*.yaml")) if "uri: s3://" in path.read_text()
]
TEAM = "team-a"


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        install(server, deployment=True)
        install_kinds_of_kueue(server)
        make_namespace(server, TEAM)
        server.kubectl("create", "namespace", "quantization-demo")
        yield server


def install_kinds_of_kueue(server: ApiServer) -> None:
    """Kueue's own, without the webhook that converts between their versions: no Kueue runs here."""
    kinds = rendered(server, kueue.kinds(Settings.from_environment(), Progress()))
    text = yaml.safe_dump_all(
        [each | {"spec": each["spec"] | {"conversion": {"strategy": "None"}}} for each in kinds]
    )
    server.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    until_kinds_are_served(server)


def deployment(api: ApiServer, overlay: str) -> dict[str, Any]:
    objects = rendered(api, DEPLOY / "overlays" / overlay)
    (found,) = (each for each in objects if each["kind"] == "Deployment")
    return found


@pytest.mark.parametrize(
    "directory", [path for path in KUSTOMIZATIONS if path.name not in NOT_SERVED], ids=lambda path: path.name
)
def test_a_kustomization_is_taken_as_it_stands(api: ApiServer, directory: Path) -> None:
    text = yaml.safe_dump_all(rendered(api, directory))
    strict = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    said = api.kubectl("apply", *strict, "-f", "-", stdin=text)
    assert "Warning" not in said.stderr


@pytest.mark.parametrize(
    "path", [*FOR_A_CLUSTER, DEPLOY / "policies/network-jobs.yaml"], ids=lambda path: path.name
)
def test_a_manifest_is_taken_as_it_stands(api: ApiServer, path: Path) -> None:
    api.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", path)


def test_ha_keeps_replicas_apart_and_an_update_still_ends(api: ApiServer) -> None:
    spec = deployment(api, "ha")["spec"]
    terms = spec["template"]["spec"]["affinity"]["podAntiAffinity"]
    assert list(terms) == ["requiredDuringSchedulingIgnoredDuringExecution"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_openshift_names_no_user_and_stays_restricted(api: ApiServer) -> None:
    context = deployment(api, "openshift")["spec"]["template"]["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_kueue_queues_jobs_that_name_no_queue_and_keeps_the_classes(api: ApiServer) -> None:
    objects = rendered(api, DEPLOY / "overlays/kueue")
    queues = {each["kind"]: each for each in objects if each["apiVersion"].startswith("kueue")}
    (ours,) = (each["data"] for each in objects if each["metadata"]["name"] == "quantization-defaults")
    defaults = yaml.safe_load(ours["defaults.yaml"])
    assert defaults.pop("queueName") == queues["LocalQueue"]["metadata"]["name"]
    assert queues["LocalQueue"]["spec"]["clusterQueue"] == queues["ClusterQueue"]["metadata"]["name"]
    assert defaults == yaml.safe_load((DEPLOY / "base/defaults.yaml").read_text())


def test_namespaced_serves_one_namespace_and_may_do_nothing_in_another(
    api: ApiServer, tmp_path: Path
) -> None:
    api.kubectl("delete", "clusterrolebinding", "quantization-operator")
    objects = rendered(api, DEPLOY / "overlays/namespaced")
    assert not [each for each in objects if each["kind"] == "ClusterRoleBinding"]
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(objects))
    (config,) = (
        each["data"]
        for each in objects
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] != "quantization-defaults"
    )
    account = service_account_kubeconfig(api, tmp_path / "config")

    def may(verb: str, kind: str, namespace: str) -> bool:
        asked = ("--kubeconfig", str(account), "auth", "can-i", verb, kind, "-n", namespace)
        return api.kubectl(*asked, check=False).stdout.strip() == "yes"

    assert may("list", "quantizationjobs", TEAM)
    assert may("create", "jobs", TEAM)
    assert not may("list", "quantizationjobs", "default")
    assert not may("create", "jobs", "default")
    served = config["QUANTIZATION_OPERATOR_NAMESPACES"]
    assert json.loads(served) == [TEAM]
    with Operator(account, tmp_path / "log", namespaces=served, lease_namespace=SYSTEM) as operator:
        until("it looks", lambda: operator.metric("quantization_is_leader") == 1)
        assert operator.metric(r'quantization_api_requests_total\{code="403"') == 0
