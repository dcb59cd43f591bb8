"""Everything of a pod template reaches the pod as it was written, and what the contract rests on stays as it is."""

import json
from typing import Any

import pytest
from tests.support.cluster_objects import quantization_job
from tests.support.pod_templates import VOLUMES, WHOLE

from quantization_api.environment import CERTIFICATE_PATH
from quantization_api.spec import QuantizationJobSpec
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QuantizationJob
from quantization_operator.workload import build, build_cleanup

pytestmark = pytest.mark.unit

EVERYTHING = tuple((f"template.{field}", value) for field, value in WHOLE.items())
ACCOUNT = ("storage.credentialsSecret", {"name": "s3"})


def template_of(*changes: tuple[str, Any], cleanup: bool = False) -> dict[str, Any]:
    """The pod template of the Job, or of the one that removes the artifact."""
    body = quantization_job(*changes)
    qjob, spec = QuantizationJob.of(body), QuantizationJobSpec.model_validate(body["spec"])
    settings = OperatorSettings()
    made = build_cleanup(qjob, spec, settings, None) if cleanup else build(qjob, spec, settings)
    template: dict[str, Any] = made["spec"]["template"]
    return template


def pod_of(*changes: tuple[str, Any], cleanup: bool = False) -> dict[str, Any]:
    pod: dict[str, Any] = template_of(*changes, cleanup=cleanup)["spec"]
    return pod


def container_of(*changes: tuple[str, Any]) -> dict[str, Any]:
    container: dict[str, Any]
    (container,) = pod_of(*changes)["containers"]
    return container


def variables(*changes: tuple[str, Any]) -> dict[str, Any]:
    found = {entry["name"]: entry for entry in container_of(*changes)["env"]}
    assert len(found) == len(container_of(*changes)["env"]), "each once"
    return found


@pytest.mark.parametrize(
    "field", ["resourceClaims", "topologySpreadConstraints", "hostAliases", "terminationGracePeriodSeconds"]
)
def test_fields_of_the_pod_are_passed_on_as_they_were_written(field: str) -> None:
    assert pod_of(*EVERYTHING)[field] == WHOLE[field]


def test_without_a_template_the_pod_is_as_it_always_was() -> None:
    pod = pod_of()
    assert pod["terminationGracePeriodSeconds"] == 60
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (65532, 65532)
    assert [volume["name"] for volume in pod["volumes"]] == ["quantizer-scratch"]
    assert list(variables()) == [
        "QUANTIZATION_REQUEST",
        *("HOME", "TMPDIR"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    ]


def test_labels_and_annotations_stand_on_the_pod_beside_the_operators() -> None:
    metadata = template_of(*EVERYTHING)["metadata"]
    assert metadata["labels"]["cost-center"] == "research"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "quantization-operator"
    assert metadata["annotations"] == WHOLE["annotations"]


def test_resources_name_the_devices_and_the_room_for_scratch() -> None:
    assert container_of(*EVERYTHING)["resources"] == WHOLE["resources"]


def test_the_clean_up_asks_for_no_device() -> None:
    assert "resourceClaims" not in pod_of(*EVERYTHING, cleanup=True)


def test_every_kind_of_volume_is_mounted_as_it_was_written() -> None:
    pod, mounts = pod_of(*EVERYTHING), container_of(*EVERYTHING)["volumeMounts"]
    made = {volume["name"]: volume for volume in pod["volumes"]}
    for volume in VOLUMES:
        kept = {key: value for key, value in volume.items() if key not in ("mountPath", "readOnly")}
        assert without_owner(made[volume["name"]]) == kept
        read_only = {"readOnly": True} if volume.get("readOnly") else {}
        assert {"name": volume["name"], "mountPath": volume["mountPath"], **read_only} in mounts


def without_owner(volume: dict[str, Any]) -> dict[str, Any]:
    """A volume without whose resources its files tell: Kubernetes asks for that, and there is one container."""
    text = json.dumps(volume)
    assert ("resourceFieldRef" in text) is ('"containerName": "quantizer"' in text)
    plain: dict[str, Any] = json.loads(text.replace(', "containerName": "quantizer"', ""))
    return plain


def test_user_and_groups_are_as_chosen_and_the_rest_stays_restricted() -> None:
    security = pod_of(*EVERYTHING)["securityContext"]
    fixed = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert security == WHOLE["securityContext"] | fixed


def test_the_platform_chooses_the_user_where_it_is_asked_to() -> None:
    security = pod_of(("template.securityContext", {"platformChoosesUser": True}))["securityContext"]
    assert not {"runAsUser", "runAsGroup", "fsGroup", "platformChoosesUser"} & security.keys()
    assert security["runAsNonRoot"] is True


def test_variables_are_set_and_none_takes_the_place_of_the_operators() -> None:
    found, container = variables(*EVERYTHING), container_of(*EVERYTHING)
    assert found["HF_HOME"]["value"] == "/models/$$(HOME)", "plain text"
    assert found["HF_TOKEN"]["valueFrom"] == WHOLE["env"][1]["valueFrom"]
    assert container["envFrom"] == WHOLE["envFrom"]
    assert found["HOME"]["value"] == "/scratch"


def test_a_proxy_is_named_in_both_spellings_and_a_variable_of_the_template_wins() -> None:
    found = variables(*EVERYTHING)
    assert {found[name]["value"] for name in ("HTTPS_PROXY", "https_proxy")} == {"http://proxy.example:3128"}
    assert {found[name]["value"] for name in ("NO_PROXY", "no_proxy")} == {".svc,.cluster.local"}
    assert "HTTP_PROXY" not in found
    own = ("template.env", [{"name": "HTTPS_PROXY", "value": "http://other:1"}])
    assert variables(*EVERYTHING, own)["HTTPS_PROXY"]["value"] == "http://other:1"


@pytest.mark.parametrize(
    ("source", "volume"),
    [
        (
            {"configMap": {"name": "ca"}, "key": "bundle.pem"},
            {"configMap": {"name": "ca", "items": [{"key": "bundle.pem", "path": "ca.crt"}]}},
        ),
        (
            {"secret": {"name": "ca", "optional": True}},
            {
                "secret": {
                    "secretName": "ca",
                    "optional": True,
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
            },
        ),
    ],
)
def test_certificates_lie_where_the_libraries_are_told_to_look(
    source: dict[str, Any], volume: dict[str, Any]
) -> None:
    change = ("template.trustedCertificates", source)
    assert {"name": "quantizer-certificates", **volume} in pod_of(change)["volumes"]
    (mount,) = (m for m in container_of(change)["volumeMounts"] if m["name"] == "quantizer-certificates")
    assert CERTIFICATE_PATH.startswith(mount["mountPath"] + "/")
    found = variables(change)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        assert found[name]["value"] == CERTIFICATE_PATH
