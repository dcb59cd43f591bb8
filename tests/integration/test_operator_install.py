"""deploy/base, applied as it stands: the operator's pod is admitted where only restricted pods are."""

import json
from collections.abc import Iterator

import pytest
import yaml
from tests.support.operator_process import SYSTEM, install, until

from local_cluster.control_plane import ApiServer
from quantization_operator.settings import OperatorSettings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        install(server, deployment=True)
        yield server


def test_the_operator_is_admitted_in_its_restricted_namespace(api: ApiServer) -> None:
    def pods() -> list[dict[str, object]]:
        items: list[dict[str, object]] = json.loads(
            api.kubectl("get", "pods", "-n", SYSTEM, "-o", "json").stdout
        )["items"]
        return items

    until("the pods of the Deployment", lambda: len(pods()) == 2)


def test_the_service_account_may_do_what_is_listed_and_no_more(api: ApiServer) -> None:
    account = f"--as=system:serviceaccount:{SYSTEM}:quantization-operator"

    def may(*question: str) -> bool:
        return api.kubectl("auth", "can-i", *question, account, "-A", check=False).stdout.strip() == "yes"

    for allowed in (
        ("list", "quantizationjobs.quantization.dev"),
        ("get", "quantizationjobs.quantization.dev"),
        ("patch", "quantizationjobs.quantization.dev"),
        ("patch", "quantizationjobs.quantization.dev", "--subresource=status"),
        ("delete", "quantizationjobs.quantization.dev"),
        ("create", "jobs.batch"),
        ("delete", "jobs.batch"),
        ("create", "events"),
    ):
        assert may(*allowed), allowed
    for forbidden in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods"),
        ("get", "pods", "--subresource=log"),
        ("patch", "jobs.batch"),
        ("update", "jobs.batch"),
        ("create", "quantizationjobs.quantization.dev"),
        ("update", "quantizationjobs.quantization.dev"),
        ("get", "configmaps"),
        ("list", "nodes"),
    ):
        assert not may(*forbidden), forbidden


def test_the_service_account_may_hold_one_lease_in_its_own_namespace(api: ApiServer) -> None:
    account = f"--as=system:serviceaccount:{SYSTEM}:quantization-operator"

    def may(verb: str, name: str, namespace: str = SYSTEM) -> bool:
        question = (verb, f"leases.coordination.k8s.io/{name}", "-n", namespace)
        return api.kubectl("auth", "can-i", *question, account, check=False).stdout.strip() == "yes"

    name = OperatorSettings().lease_name
    assert all(may(verb, name) for verb in ("get", "update", "create"))
    for verb, other, namespace in (
        ("update", "another", SYSTEM),
        ("get", name, "kube-system"),
        ("update", name, "default"),
        ("delete", name, SYSTEM),
    ):
        assert not may(verb, other, namespace), (verb, other, namespace)


def test_people_who_may_edit_a_namespace_may_make_jobs_there(api: ApiServer) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "dev", "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(role))

    def may() -> bool:
        question = ("create", "quantizationjobs.quantization.dev", "-n", "default", "--as=dev")
        return api.kubectl("auth", "can-i", *question, check=False).stdout.strip() == "yes"

    until("the role is aggregated", may)


def test_the_settings_reach_the_operator_as_environment(api: ApiServer) -> None:
    (config,) = json.loads(
        api.kubectl(
            "get", "cm", "-n", SYSTEM, "-l", "app.kubernetes.io/name=quantization-operator", "-o", "json"
        ).stdout
    )["items"]
    deployment = json.loads(api.kubectl("get", "deploy", "-n", SYSTEM, "-o", "json").stdout)["items"][0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    assert config["data"]["QUANTIZATION_OPERATOR_QUANTIZER_IMAGE"]
