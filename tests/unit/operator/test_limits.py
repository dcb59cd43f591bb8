"""What an administrator allows: the settings that bound images, service accounts, Secrets and endpoints."""

from typing import Any

import pytest
from tests.support.cluster_objects import CREATED, quantization_job
from tests.support.decisions import FRESH, NOW, RUNS, Case, observe
from tests.support.manifests import VANISHING, claimed, configured

from quantization_api.failures import Category
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import Failure
from quantization_operator.policies.limits import is_metadata, refusal
from quantization_operator.reconcile import reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import FINALIZER

pytestmark = pytest.mark.unit


def refused(*changes: tuple[str, Any], **settings: Any) -> Failure | None:
    spec = QuantizationJobSpec.model_validate(quantization_job(*changes)["spec"])
    return refusal(spec, OperatorSettings(**settings))


def test_unset_settings_allow_everything() -> None:
    assert (
        refused(("template.image", "docker.example/evil:1"), ("template.serviceAccountName", "admin")) is None
    )


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/team/quantizer:1", ["registry.example/team/*"]),
        ("registry.example/q@sha256:" + "a" * 64, ["registry.example/q@sha256:" + "a" * 64]),
        ("quantizer:1", ["other:1", "quantizer:*"]),
    ],
)
def test_an_image_that_is_listed_or_has_a_listed_prefix_is_allowed(image: str, allowed: list[str]) -> None:
    assert refused(("template.image", image), allowed_images=allowed) is None


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/team-2/quantizer:1", ["registry.example/team/*"]),
        ("registry.example/team/quantizer:1", ["registry.example/team/"]),
        ("quantizer:1", []),
    ],
)
def test_any_other_image_is_refused_by_name(image: str, allowed: list[str]) -> None:
    found = refused(("template.image", image), allowed_images=allowed)
    assert found is not None
    assert found.category is Category.INVALID_WORKFLOW
    assert f"spec.template.image: {image} is not allowed here" in found.message
    assert "QUANTIZATION_OPERATOR_ALLOWED_IMAGES" in found.message


def test_a_job_that_names_no_image_runs_the_operators_own() -> None:
    assert refused(allowed_images=[], allowed_service_accounts=[]) is None


def test_a_service_account_is_refused_where_none_is_allowed() -> None:
    found = refused(("template.serviceAccountName", "builder"), allowed_service_accounts=[])
    assert found is not None
    assert "allowed: none, leave the field out" in found.message


@pytest.mark.parametrize(
    "change",
    [
        ("storage.credentialsSecret", {"name": "prod-database"}),
        ("template.imagePullSecrets", [{"name": "s3-a"}, {"name": "prod-database"}]),
        (
            "template.env",
            [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "prod-database", "key": "k"}}}],
        ),
        ("template.envFrom", [{"prefix": "A_", "secretRef": {"name": "prod-database"}}]),
        ("template.trustedCertificates", {"secret": {"name": "prod-database"}}),
        *(
            ("template.volumes", [{"name": "v", "mountPath": "/v", **source}])
            for source in (
                {"secret": {"secretName": "prod-database"}},
                {"projected": {"sources": [{"secret": {"name": "prod-database"}}]}},
                {"csi": {"driver": "d", "nodePublishSecretRef": {"name": "prod-database"}}},
            )
        ),
    ],
)
def test_a_secret_that_is_not_listed_is_refused(change: tuple[str, Any]) -> None:
    listed = {"allowed_secrets": ["s3", "s3-*"]}
    assert refused(**listed) is None
    found = refused(change, **listed)
    assert found is not None
    assert "prod-database is not allowed here" in found.message


def variable(name: str) -> tuple[str, Any]:
    return "template.env", [{"name": name, "value": "x"}]


PREFIXED = ("template.envFrom", [{"prefix": "HF_", "configMapRef": {"name": "hub"}}])


@pytest.mark.parametrize(
    ("change", "settings", "named"),
    [
        (variable("TRITON_CACHE_DIR"), {}, None),
        (PREFIXED, {}, None),
        (variable("HF_TOKEN"), {"allowed_images": []}, None),
        (variable("TRITON_CACHE_DIR"), {"allowed_images": []}, "TRITON_CACHE_DIR"),
        (PREFIXED, {"allowed_images": []}, "HF_*"),
        (variable("TRITON_CACHE_DIR"), {"allowed_images": [], "allowed_variables": ["*"]}, None),
        (PREFIXED, {"allowed_variables": ["HF_*"]}, None),
        (variable("HF_TOKEN"), {"allowed_variables": []}, "HF_TOKEN"),
    ],
)
def test_variables_are_bounded_where_it_matters_what_is_run(
    change: tuple[str, Any], settings: dict[str, Any], named: str | None
) -> None:
    found = refused(change, **settings)
    assert (found is None) is (named is None)
    assert found is None or f"{named} is not allowed here" in found.message


def test_an_image_that_is_mounted_is_bounded_like_one_that_is_run() -> None:
    volume = {"name": "v", "mountPath": "/v", "image": {"reference": "docker.example/x:1"}}
    found = refused(("template.volumes", [volume]), allowed_images=["registry.example/*"])
    assert found is not None
    assert "docker.example/x:1 is not allowed here" in found.message


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.16689662",
        "fe80::1",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "fd00:ec2::254",
        "100.100.100.200",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
    ],
)
def test_a_metadata_address_is_known_however_it_is_written(host: str) -> None:
    assert is_metadata(host)


@pytest.mark.parametrize("host", ["s3.example.com", "10.0.0.7", "127.0.0.1", "fd00::1", "169.255.0.1", ""])
def test_another_address_is_not_taken_for_one(host: str) -> None:
    assert not is_metadata(host)


def test_a_link_local_endpoint_is_refused_unless_the_setting_is_off() -> None:
    change = ("storage.endpoint", "http://169.254.169.254:80")
    found = refused(change)
    assert found is not None
    assert "link-local" in found.message
    assert refused(change, refuse_link_local_endpoints=False) is None


@pytest.mark.parametrize(("uri", "volumes"), VANISHING)
def test_an_output_that_vanishes_with_the_pod_is_refused_also_when_it_was_stored_before(
    uri: str, volumes: list[dict[str, Any]]
) -> None:
    found = refused(("output.uri", uri), ("template.volumes", volumes))
    assert found is not None
    assert "or it is lost with the pod" in found.message


def test_an_output_on_the_innermost_claim_stays() -> None:
    volumes = [configured("/data"), claimed("/data/out")]
    assert refused(("output.uri", "file:///data/out/x/"), ("template.volumes", volumes)) is None


IMAGE = ("template.image", "evil:1")
NONE_ALLOWED = OperatorSettings(allowed_images=[])


def test_a_job_that_is_not_allowed_ends_before_its_job_is_made() -> None:
    decision = reconcile(observe(Case(qjob=quantization_job(IMAGE))), NONE_ALLOWED, NOW)
    assert decision.create is None
    assert decision.status is not None
    assert decision.status.failure is not None
    assert "evil:1 is not allowed here" in decision.status.failure.message
    assert reconcile(observe(Case(qjob=quantization_job(IMAGE))), OperatorSettings(), NOW).create is not None


def test_the_job_that_removes_an_artifact_is_no_way_around_it() -> None:
    """The finalizer can be written by whoever creates the object."""
    gone = quantization_job(
        IMAGE,
        ("artifactPolicy", "Delete"),
        status=RUNS,
        deletionTimestamp=CREATED,
        finalizers=[FINALIZER],
    )
    observed = observe(Case(qjob=gone, more=FRESH))
    assert reconcile(observed, OperatorSettings(), NOW).create is not None
    decision = reconcile(observed, NONE_ALLOWED, NOW)
    assert decision.create is None
    assert decision.release
    assert "evil:1 is not allowed here" in decision.events[0].message
