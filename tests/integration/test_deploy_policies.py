"""deploy/policies on a real API server: what the operator's token may create, and which Secrets a job may name."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.cluster_objects import quantization_job
from tests.support.manifests import AFFINITY, REMOVED, claimed, configured, manifest
from tests.support.operator_process import SYSTEM, install, make_namespace, service_account_kubeconfig, until
from tests.support.pod_templates import VOLUMES
from tests.support.pod_templates import WHOLE as WHOLE_TEMPLATE

from local_cluster.control_plane import ApiServer
from quantization_api.spec import QuantizationJobSpec
from quantization_operator.policies.limits import METADATA_ADDRESSES
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QuantizationJob
from quantization_operator.workload import build, build_cleanup

pytestmark = pytest.mark.integration

POLICIES = Path(__file__).parents[2] / "deploy/policies"
SETTINGS = OperatorSettings(quantizer_image="quantizer:test")
TEAM, OTHER = "team", "other"
WHOLE = (
    ("template.affinity", AFFINITY),
    (
        "template.volumes",
        [
            claimed("/models"),
            configured("/text"),
            *(volume for volume in VOLUMES if volume["name"] in ("memory", "image")),
            {
                "name": "several",
                "mountPath": "/several",
                "projected": {"sources": [{"configMap": {"name": "text"}}]},
            },
        ],
    ),
    ("template.envFrom", WHOLE_TEMPLATE["envFrom"][:1]),
    ("template.env", [v for v in WHOLE_TEMPLATE["env"] if v["name"] != "HF_TOKEN"]),
    ("template.securityContext", {"platformChoosesUser": True}),
)

Change = Callable[[dict[str, Any]], object]
Create = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer(controllers=True) as server:
        install(server)
        make_namespace(server, TEAM, **{"quantization.dev/jobs": "allowed"})
        make_namespace(server, OTHER)
        server.kubectl("apply", "-k", str(POLICIES))
        yield server


@pytest.fixture(scope="module")
def create(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Create:
    """Create a Job as the operator, on trial; the refusal, "" when it is taken."""
    account = service_account_kubeconfig(api, tmp_path_factory.mktemp("account") / "kubeconfig")

    def attempt(body: dict[str, Any]) -> str:
        answer = api.kubectl(
            *("--kubeconfig", str(account), "create", "--dry-run=server", "-f", "-"),
            stdin=yaml.safe_dump(body),
            check=False,
        )
        return answer.stderr if answer.returncode else ""

    until("the policy is in force", lambda: "is not labelled" in attempt(made(OTHER)))
    return attempt


def made(namespace: str = TEAM, *changes: tuple[str, Any]) -> dict[str, Any]:
    """The Job that the operator makes of a QuantizationJob."""
    body = quantization_job(*changes, namespace=namespace)
    return build(QuantizationJob.of(body), QuantizationJobSpec.model_validate(body["spec"]), SETTINGS)


def test_what_the_operator_makes_is_taken(create: Create) -> None:
    assert create(made()) == ""
    assert create(made(TEAM, *WHOLE)) == ""
    body = quantization_job(namespace=TEAM)
    spec = QuantizationJobSpec.model_validate(body["spec"])
    assert create(build_cleanup(QuantizationJob.of(body), spec, SETTINGS, None)) == ""


@pytest.mark.parametrize("namespace", [OTHER, "kube-system", "quantization-system"])
def test_no_job_is_made_in_a_namespace_that_does_not_say_so(create: Create, namespace: str) -> None:
    assert "the namespace is not labelled quantization.dev/jobs=allowed" in create(made(namespace))


def pod(**change: Any) -> Change:
    return lambda body: body["spec"]["template"]["spec"].update(change)


def container(**change: Any) -> Change:
    return lambda body: body["spec"]["template"]["spec"]["containers"][0].update(change)


def security(**change: Any) -> Change:
    return lambda body: body["spec"]["template"]["spec"]["containers"][0]["securityContext"].update(change)


def shell(body: dict[str, Any]) -> dict[str, Any]:
    """A container that is as restricted as the quantizer's."""
    return copy.deepcopy(body["spec"]["template"]["spec"]["containers"][0]) | {"name": "shell", "ports": []}


LESS_RESTRICTED = "the pod is less restricted"
FORGED: dict[str, tuple[Change, str]] = {
    "without labels": (
        lambda body: (body["metadata"].pop("labels"), body["spec"]["template"].pop("metadata")),
        "does not carry the operator's labels",
    ),
    "without an owner": (
        lambda body: body["metadata"].pop("ownerReferences"),
        "belongs to no QuantizationJob",
    ),
    "of another owner": (
        lambda body: body["metadata"]["ownerReferences"][0].update(kind="ConfigMap", apiVersion="v1"),
        "belongs to no QuantizationJob",
    ),
    "on the node's network": (pod(hostNetwork=True), "uses the node's network"),
    "beside the node's processes": (pod(hostPID=True), "uses the node's network"),
    "with a token": (pod(automountServiceAccountToken=True), "carry a service account token"),
    "with an init container": (lambda body: pod(initContainers=[shell(body)])(body), "containers other than"),
    "with another container": (
        lambda body: body["spec"]["template"]["spec"]["containers"].append(shell(body)),
        "containers other than",
    ),
    "privileged": (security(privileged=True, allowPrivilegeEscalation=True), LESS_RESTRICTED),
    "as root": (security(runAsUser=0), LESS_RESTRICTED),
    "with a capability": (security(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), LESS_RESTRICTED),
    "without a security context": (container(securityContext=None), LESS_RESTRICTED),
    "with the node's files": (
        lambda body: body["spec"]["template"]["spec"]["volumes"].append(
            {"name": "host", "hostPath": {"path": "/"}}
        ),
        "mounts something other than",
    ),
    "with a Secret as files": (
        lambda body: body["spec"]["template"]["spec"]["volumes"].append(
            {"name": "s", "secret": {"secretName": "s3"}}
        ),
        "mounts something other than",
    ),
    "with a whole Secret": (container(envFrom=[{"secretRef": {"name": "s3"}}]), "reads more of a Secret"),
    "with another key of a Secret": (
        lambda body: body["spec"]["template"]["spec"]["containers"][0]["env"].append(
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "other"}}}
        ),
        "reads more of a Secret",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_stolen_token_makes_no_other_job(create: Create, name: str) -> None:
    change, sentence = FORGED[name]
    body = made()
    change(body)
    assert sentence in create(body)


def test_others_make_their_jobs_as_before(api: ApiServer) -> None:
    body = made(OTHER)
    pod(hostNetwork=True)(body)
    api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body))


NAMING_A_SECRET: tuple[tuple[str, Any], ...] = (
    ("template.env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "database", "key": "k"}}}]),
    ("template.envFrom", [{"prefix": "A_", "secretRef": {"name": "database"}}]),
    ("template.trustedCertificates", {"secret": {"name": "database"}}),
    *(
        ("template.volumes", [{"name": "v", "mountPath": "/v", **source}])
        for source in (
            {"secret": {"secretName": "database"}},
            {"csi": {"driver": "d", "nodePublishSecretRef": {"name": "database"}}},
            {"projected": {"sources": [{"secret": {"name": "database"}}]}},
        )
    ),
)


def test_a_job_names_only_secrets_that_are_labelled_for_it(api: ApiServer) -> None:
    for name, labels in (("labelled", {"quantization.dev/credentials": "allowed"}), ("database", {})):
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": TEAM, "labels": labels},
        }
        api.kubectl("create", "-f", "-", stdin=yaml.safe_dump(secret))

    def refused(*changes: tuple[str, Any]) -> str:
        body = manifest(*changes)
        body["metadata"]["namespace"] = TEAM
        answer = api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body), check=False)
        return answer.stderr if answer.returncode else ""

    stolen = ("storage.credentialsSecret", {"name": "database"})
    until("the policy is in force", lambda: "is not labelled" in refused(stolen))
    assert "Secret database is not labelled quantization.dev/credentials=allowed" in refused(stolen)
    assert "imagePullSecrets: Secret database" in refused(
        ("template.imagePullSecrets", [{"name": "database"}])
    )
    for field, value in NAMING_A_SECRET:
        assert f"{field}: Secret database" in refused((field, value)), value
        labelled = json.loads(json.dumps(value).replace("database", "labelled"))
        assert refused((field, labelled)) == ""
    assert refused(("storage.credentialsSecret", {"name": "labelled"})) == ""
    assert refused(("storage", REMOVED)) == ""


def test_a_team_writes_and_reaches_only_what_its_namespace_says(api: ApiServer) -> None:
    make_namespace(api, "limited")
    places = (
        "quantization.dev/outputs=s3://team-a/,s3://shared/a/",
        "quantization.dev/endpoints=http://s3.a:1,default",
    )
    api.kubectl("annotate", "namespace", "limited", *places)

    def refused(*changes: tuple[str, Any], namespace: str = "limited") -> str:
        body = manifest(*changes)
        body["metadata"]["namespace"] = namespace
        answer = api.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body), check=False)
        return answer.stderr if answer.returncode else ""

    def at(uri: str, endpoint: object = "http://s3.a:1", *more: tuple[str, Any]) -> str:
        return refused(("output.uri", uri), ("storage.endpoint", endpoint), *more)

    until("the policy is in force", lambda: "write below s3://team-a/,s3://shared/a/" in at("s3://other/x"))
    for uri in ("s3://team-a/x", "s3://shared/a/x", "s3://shared/a"):
        assert at(uri) == "", uri
    for uri in ("s3://team-ab/x", "s3://shared/ab", "s3://shared/b/a"):
        assert "spec.output: jobs of this namespace write below" in at(uri), uri
    assert "spec.output" in at("s3://team-a/x", "http://s3.a:1", ("output.trialsUri", "s3://other/trials"))
    assert at("s3://team-a/x", endpoint=REMOVED) == ""
    said = at("s3://team-a/x", endpoint="http://elsewhere:1")
    assert (
        "spec.storage.endpoint: http://elsewhere:1 is none of those of this namespace: http://s3.a:1,default"
        in said
    )
    assert refused(namespace=OTHER) == ""


def allows(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector of the policy means a pod with these labels."""
    return all(labels.get(key) == value for key, value in policy["matchLabels"].items())


def test_the_network_policies_mean_the_pods_and_ports_that_there_are() -> None:
    operators, jobs = (
        yaml.safe_load((POLICIES / f"network-{name}.yaml").read_text()) for name in ("operator", "jobs")
    )
    deployment = yaml.safe_load((POLICIES.parent / "base/deployment.yaml").read_text())
    of_operator = deployment["spec"]["template"]["metadata"]["labels"]
    template = made()["spec"]["template"]
    of_job = template["metadata"]["labels"]
    assert allows(operators["spec"]["podSelector"], of_operator)
    assert allows(jobs["spec"]["podSelector"], of_job)
    assert not allows(operators["spec"]["podSelector"], of_job)
    (asked,) = (rule for rule in operators["spec"]["egress"] if "to" in rule)
    (port,) = template["spec"]["containers"][0]["ports"]
    assert allows(asked["to"][0]["podSelector"], of_job)
    assert [each["port"] for each in asked["ports"]] == [port["containerPort"]]
    (asks,) = jobs["spec"]["ingress"]
    assert allows(asks["from"][0]["podSelector"], of_operator)
    assert asks["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": SYSTEM}
    assert [each["port"] for each in asks["ports"]] == [port["name"]]
    (served,) = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert [each["port"] for each in operators["spec"]["ingress"][0]["ports"]] == [served["name"]]
    shut = {
        address for rule in jobs["spec"]["egress"] for to in rule["to"] for address in to["ipBlock"]["except"]
    }
    assert {address.partition("/")[0] for address in shut} >= set(METADATA_ADDRESSES)
