"""The Helm chart: by Helm one gets what one gets by kubectl, and on a real API server it comes, changes and goes."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.manifests import manifest
from tests.support.operator_process import (
    DEPLOY,
    SYSTEM,
    Operator,
    make_namespace,
    service_account_kubeconfig,
    until,
)

from deploy.release import chart, manifests
from local_cluster.binaries import obtain
from local_cluster.control_plane import ApiServer
from local_cluster.installed import DEFINITION
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import run
from quantization_api import ENGINE_VERSION
from quantization_operator.defaults import Defaults
from quantization_operator.settings import ENV_PREFIX, OperatorSettings

pytestmark = pytest.mark.integration

Object = dict[str, Any]
Helm = Callable[..., str]
NAME, NAMESPACE = "quantization-operator", "team"
DEFAULTS = "quantization-defaults"
CLUSTER_SCOPED = {
    *("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run helm in a home of its own; what it prints, the complaints included."""
    home = tmp_path_factory.mktemp("helm")
    program = obtain(Settings.from_environment(), Progress(), ["helm"])["helm"]
    places = {f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}

    def call(*arguments: str | Path, check: bool = True, api: ApiServer | None = None) -> str:
        environment = places | ({"KUBECONFIG": str(api.kubeconfig)} if api else {})
        done = run(program, *arguments, env=environment, check=check)
        return done.stdout + ("" if check else done.stderr)

    return call


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chart.write(tmp_path_factory.mktemp("chart"))


@pytest.fixture
def rendered(helm: Helm, archive: Path) -> Callable[..., list[Object]]:
    def render(*options: str) -> list[Object]:
        text = helm("template", NAME, archive, "--namespace", SYSTEM, *options)
        return [each for each in yaml.safe_load_all(text) if each]

    return render


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Objects by kind and name; the name of a generated ConfigMap without its hash, here and where it is used."""
    text = re.sub(rf"({NAME})-[a-z0-9]{{10}}\b", r"\1", yaml.safe_dump_all(objects))
    found = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    assert len(found) == len(objects)
    return found


def the(objects: list[Object], kind: str) -> Object:
    """The only one of a kind, the defaults apart, which every installation has."""
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] != DEFAULTS)
    return found


def defaults_of(objects: list[Object]) -> Defaults:
    """What the operator reads of the ConfigMap that the Deployment mounts."""
    (made,) = (each for each in objects if each["metadata"]["name"] == DEFAULTS)
    (source,) = (
        volume["configMap"]["name"]
        for volume in the(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "defaults"
    )
    assert source == DEFAULTS
    return Defaults.model_validate(yaml.safe_load(made["data"]["defaults.yaml"]))


def test_helm_installs_what_kubectl_installs_object_by_object(rendered: Callable[..., list[Object]]) -> None:
    by_kubectl = by_name([*manifests.kind(), *manifests.operator(manifests.Images())])
    assert by_kubectl.pop(("Namespace", SYSTEM)), "Helm has --create-namespace"
    by_helm = by_name(rendered("--include-crds"))
    assert by_helm.keys() == by_kubectl.keys()
    for key, expected in by_kubectl.items():
        assert by_helm[key] == expected, key


def test_the_chart_passes_helms_own_check_and_has_the_same_bytes_each_time(
    helm: Helm, archive: Path, tmp_path: Path
) -> None:
    assert "0 chart(s) failed" in helm("lint", archive)
    assert chart.write(tmp_path).read_bytes() == archive.read_bytes()


def test_values_reach_the_operator(rendered: Callable[..., list[Object]]) -> None:
    settings = {
        "scratchSize": "50Gi",
        "workers": 32,
        "sweepIntervalSeconds": 1000000,
        "allowedImages": ["registry/team/*"],
        "allowedSecrets": [],
        "refuseLinkLocalEndpoints": False,
    }
    objects = rendered(
        "--set-json", f"settings={json.dumps(settings)}", "--set", "images.registry=registry/team"
    )
    data = the(objects, "ConfigMap")["data"]
    read = OperatorSettings.model_validate(
        {
            key.removeprefix(ENV_PREFIX).lower(): json.loads(value) if value.startswith("[") else value
            for key, value in data.items()
        }
    )
    assert (read.scratch_size, read.workers, read.sweep_interval_seconds) == ("50Gi", 32, 1000000)
    assert (read.allowed_images, read.allowed_secrets) == (["registry/team/*"], [])
    assert not read.refuse_link_local_endpoints
    assert read.quantizer_image == manifests.Images("registry/team").reference("quantizer")
    (container,) = the(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == manifests.Images("registry/team").reference(NAME)


def test_defaults_reach_the_operator_and_without_them_there_are_the_shipped_classes(
    rendered: Callable[..., list[Object]],
) -> None:
    given = {"queueName": "gpu", "resourceClasses": {"tiny": {"scratchSize": "1Gi"}}}
    assert defaults_of(rendered("--set-json", f"defaults={json.dumps(given)}")) == Defaults.model_validate(
        given
    )
    assert set(defaults_of(rendered()).resource_classes) == {"small", "8b", "70b"}


def test_a_queue_joins_the_defaults_as_the_overlay_for_kueue_has_it(
    rendered: Callable[..., list[Object]], helm: Helm, archive: Path
) -> None:
    overlay = (DEPLOY / "overlays/kueue/defaults.yaml").read_text()
    expected = Defaults.model_validate(yaml.safe_load(overlay))
    assert defaults_of(rendered("--set", f"queueName={expected.queue_name}")) == expected
    own = ("--set-json", 'defaults={"queueName":"gpu"}')
    assert "name the queue once" in helm("template", NAME, archive, *own, "--set", "queueName=b", check=False)


def test_values_shape_the_operators_pods(rendered: Callable[..., list[Object]]) -> None:
    values = {
        "replicas": 3,
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "pull"}],
        "priorityClassName": "system-cluster-critical",
        "resources": {"limits": {"memory": "1Gi"}},
        "podLabels": {"team": "ml"},
        "podAnnotations": {"prometheus.io/scrape": "false"},
        "platformChoosesUser": True,
    }
    options = [
        option for key, value in values.items() for option in ("--set-json", f"{key}={json.dumps(value)}")
    ]
    deployment = the(rendered(*options), "Deployment")
    template = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 3
    for field in ("nodeSelector", "tolerations", "imagePullSecrets", "priorityClassName"):
        assert template["spec"][field] == values[field]
    assert template["spec"]["containers"][0]["resources"] == values["resources"]
    assert template["metadata"]["labels"] == {
        "team": "ml",
        **deployment["spec"]["selector"]["matchLabels"],
    } | {"app.kubernetes.io/part-of": "quantization"}
    assert template["metadata"]["annotations"]["prometheus.io/scrape"] == "false"
    assert template["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("settings.scrachSize=1Gi", "scrachSize"),
        ("settings.workers=0", "workers"),
        ("settings.namespaces={a}", "namespaces"),
        ("image.tag=1", "image"),
        ("replicas=0", "replicas"),
        ("namespaces={Team_A}", "namespaces"),
    ],
)
def test_a_value_that_nothing_reads_is_refused(helm: Helm, archive: Path, option: str, sentence: str) -> None:
    said = helm("template", NAME, archive, "--set", option, check=False)
    assert "don't meet the specifications of the schema" in said
    assert sentence in said


def test_in_named_namespaces_nothing_is_cluster_wide(rendered: Callable[..., list[Object]]) -> None:
    objects = rendered("--set", "namespaces={team-a,team-b}")
    assert not CLUSTER_SCOPED & {each["kind"] for each in objects}
    (whole,) = (each for each in manifests.operator(manifests.Images()) if each["kind"] == "ClusterRole")
    for namespace in ("team-a", "team-b"):
        there = [each for each in objects if each["metadata"]["namespace"] == namespace]
        assert the(there, "Role")["rules"] == whole["rules"]
        (subject,) = the(there, "RoleBinding")["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": NAME, "namespace": SYSTEM}
    assert json.loads(the(objects, "ConfigMap")["data"][f"{ENV_PREFIX}NAMESPACES"]) == ["team-a", "team-b"]


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        yield server


def submit(api: ApiServer, name: str, namespace: str) -> None:
    body = manifest()
    body["metadata"] |= {"name": name, "namespace": namespace}
    api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))


def test_a_release_comes_changes_and_goes_and_jobs_stay(helm: Helm, archive: Path, api: ApiServer) -> None:
    place = ("--namespace", "quant")
    helm("install", "one", archive, *place, "--create-namespace", api=api)
    api.kubectl("wait", "--for=condition=Established", f"crd/{DEFINITION}", "--timeout=30s")
    make_namespace(api, NAMESPACE)
    submit(api, "stays", NAMESPACE)

    before = api.kubectl("get", "cm", "-n", "quant", "-o", "name").stdout
    helm("upgrade", "one", archive, *place, "--set", "settings.workers=7", api=api)
    assert api.kubectl("get", "cm", "-n", "quant", "-o", "name").stdout != before, (
        "which restarts the operator"
    )

    label = ("label", "crd", DEFINITION, "--overwrite")
    api.kubectl(*label, "app.kubernetes.io/version=0.0.1")
    said = helm("upgrade", "one", archive, *place, check=False, api=api)
    assert (
        "the kind QuantizationJob of release 0.0.1, and Helm does not upgrade kinds: `kubectl apply" in said
    )
    api.kubectl(*label, "app.kubernetes.io/version=99.0.0")
    helm("upgrade", "one", archive, *place, api=api)

    api.kubectl(*label, f"app.kubernetes.io/version={ENGINE_VERSION}")

    helm("uninstall", "one", *place, api=api)
    assert api.kubectl("get", "qj", "stays", "-n", NAMESPACE).stdout
    helm("install", "another", archive, *place, api=api)
    helm("uninstall", "another", *place, api=api)


@pytest.mark.nightly
def test_two_releases_serve_their_own_namespaces_side_by_side(
    helm: Helm, archive: Path, api: ApiServer, tmp_path: Path
) -> None:
    api.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests.text(manifests.kind())
    )
    for team in ("team-a", "team-b"):
        make_namespace(api, team)
        make_namespace(api, f"operator-{team}")
        options = ("--namespace", f"operator-{team}", "--set", f"namespaces={{{team}}}", "--skip-crds")
        helm("install", team, archive, *options, api=api)
    account = service_account_kubeconfig(api, tmp_path / "config", namespace="operator-team-a")
    with Operator(
        account, tmp_path / "log", namespaces='["team-a"]', lease_namespace="operator-team-a"
    ) as operator:
        for team in ("team-a", "team-b"):
            submit(api, "mine", team)
        status = ("get", "qj", "mine", "-o", "jsonpath={.status.phase}", "-n")
        until("the job of its own namespace", lambda: api.kubectl(*status, "team-a").stdout == "Pending")
        assert api.kubectl(*status, "team-b").stdout == ""
        assert operator.metric(r'quantization_api_requests_total\{code="403"') == 0
    for team in ("team-a", "team-b"):
        helm("uninstall", team, "--namespace", f"operator-{team}", api=api)
