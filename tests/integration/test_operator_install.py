"""deploy/crd and deploy/base, applied as they stand: the operator's pod is admitted where only restricted pods are."""

import json
from collections.abc import Iterator

import pytest
import yaml
from tests.support.bearer import Bearer
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


JOBS, NAMESPACED = (
    "/apis/quantization.dev/v1alpha1/namespaces/default/quantizationjobs",
    "/api/v1/namespaces/default",
)
FORBIDDEN = [
    *[("GET", f"{NAMESPACED}/{kind}") for kind in ("secrets", "configmaps", "serviceaccounts", "services")],
    *[("GET", f"/api/v1/{kind}") for kind in ("secrets", "nodes", "namespaces", "persistentvolumes")],
    ("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/any"),
    ("POST", f"{NAMESPACED}/pods"),
    ("POST", f"{NAMESPACED}/secrets"),
    ("POST", f"{NAMESPACED}/serviceaccounts/default/token"),
    ("GET", f"{NAMESPACED}/pods/any/log"),
    ("POST", f"{NAMESPACED}/pods/any/exec?command=sh"),
    ("GET", f"{NAMESPACED}/pods/any/proxy/"),
    ("DELETE", f"{NAMESPACED}/pods/any"),
    ("POST", f"{NAMESPACED}/pods/any/eviction"),
    ("PATCH", "/apis/batch/v1/namespaces/default/jobs/any"),
    ("DELETE", "/apis/batch/v1/namespaces/default/jobs"),
    ("POST", "/apis/batch/v1/namespaces/default/cronjobs"),
    ("POST", "/apis/apps/v1/namespaces/default/deployments"),
    ("POST", JOBS),
    ("PUT", f"{JOBS}/any"),
    ("DELETE", JOBS),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/quantization-operator"),
    ("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/quantizationjobs.quantization.dev"),
    ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"),
    (
        "DELETE",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/quantization-keep-definition",
    ),
]


def test_what_a_stolen_token_asks_for_beyond_its_role_is_forbidden(api: ApiServer) -> None:
    thief = Bearer(api, SYSTEM, "quantization-operator")
    answers = {
        (method, path): thief.ask(
            method, path, {}, "application/merge-patch+json" if method == "PATCH" else "application/json"
        )[0]
        for method, path in FORBIDDEN
    }
    assert len(answers) >= 25
    assert set(answers.values()) == {403}, {each: code for each, code in answers.items() if code != 403}
    until("its own work is not", lambda: thief.ask("GET", JOBS)[0] == 200)


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
    configs = json.loads(
        api.kubectl(
            "get", "cm", "-n", SYSTEM, "-l", "app.kubernetes.io/name=quantization-operator", "-o", "json"
        ).stdout
    )["items"]
    (config,) = (one for one in configs if one["metadata"]["name"] != "quantization-defaults")
    deployment = json.loads(api.kubectl("get", "deploy", "-n", SYSTEM, "-o", "json").stdout)["items"][0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    assert config["data"]["QUANTIZATION_OPERATOR_QUANTIZER_IMAGE"]
