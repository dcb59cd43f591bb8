"""The CRD on a real API server: each manifest is accepted, or refused with its sentence."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from pydantic import ValidationError
from tests.support.crd import install_crd
from tests.support.invalid import Invalid
from tests.support.invalid_manifests import INVALID
from tests.support.manifests import manifest
from tests.support.olive_count import OWN_CONFIGS, counted
from tests.support.random_passes import random_passes
from tests.support.valid_changes import VALID_CHANGES
from tests.support.whole_contract import WHOLE_INVALID, WHOLE_VALID

from local_cluster.control_plane import ApiServer
from quantization_api import GROUP, PLURAL, VERSION
from quantization_api.spec import QuantizationJobSpec

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def api() -> Iterator[client.CustomObjectsApi]:
    with ApiServer() as server:
        api_client = config.new_client_from_config(str(server.kubeconfig))
        install_crd(api_client)
        yield client.CustomObjectsApi(api_client)


def create(api: client.CustomObjectsApi, body: dict[str, Any], dry_run: str | None = "All") -> Any:
    return api.create_namespaced_custom_object(
        GROUP,
        VERSION,
        "default",
        PLURAL,
        body,
        field_validation="Strict",
        **({"dry_run": dry_run} if dry_run else {}),
    )


@pytest.mark.parametrize("case", INVALID, ids=lambda c: c.name)
def test_the_api_server_refuses_an_invalid_manifest_with_its_sentence(
    api: client.CustomObjectsApi, case: Invalid
) -> None:
    with pytest.raises(ApiException) as error:
        create(api, manifest(*case.changes))
    assert error.value.status in (400, 422)
    assert case.server in error.value.body.replace('\\"', '"')


def test_the_api_server_accepts_what_is_imported_from_olive(api: client.CustomObjectsApi) -> None:
    manifests = [found.manifest for found in counted([OWN_CONFIGS]) if found.manifest is not None]
    assert len(manifests) >= 7
    for body in manifests:
        assert create(api, body)["spec"] == body["spec"]


@pytest.mark.parametrize("name", VALID_CHANGES)
def test_the_api_server_accepts_a_valid_manifest_and_adds_nothing(
    api: client.CustomObjectsApi, name: str
) -> None:
    body = manifest(*VALID_CHANGES[name])
    assert create(api, body)["spec"] == body["spec"]


@pytest.mark.parametrize("case", WHOLE_INVALID, ids=lambda c: c.name)
def test_the_api_server_refuses_invalid_passes_with_their_sentence(
    api: client.CustomObjectsApi, case: Invalid
) -> None:
    with pytest.raises(ApiException) as error:
        create(api, manifest(*case.changes))
    assert error.value.status in (400, 422)
    assert case.server in error.value.body.replace('\\"', '"')


@pytest.mark.parametrize("name", WHOLE_VALID)
def test_the_api_server_accepts_valid_passes(api: client.CustomObjectsApi, name: str) -> None:
    body = manifest(*WHOLE_VALID[name])
    assert create(api, body)["spec"] == body["spec"]


@pytest.mark.parametrize("seed", range(8))
def test_the_api_server_and_python_agree_on_random_passes(api: client.CustomObjectsApi, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        body = manifest(("workflow.passes", random_passes(chance)))
        sentence: str | None = None
        try:
            QuantizationJobSpec.model_validate(body["spec"])
        except ValidationError as error:
            sentence = error.errors()[0]["msg"]
        if sentence is None:
            create(api, body)
            continue
        with pytest.raises(ApiException) as refused:
            create(api, body)
        assert sentence in refused.value.body, body["spec"]["workflow"]["passes"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"workflow": {"evaluator": None, "evaluators": None}}, "workflow is immutable"),
        ({"output": {"uri": "s3://artifacts/elsewhere"}}, "output is immutable"),
        ({"managedBy": "kueue.x-k8s.io/multikueue"}, "managedBy is immutable"),
    ],
)
def test_what_names_the_result_cannot_be_changed(
    api: client.CustomObjectsApi, change: dict[str, Any], sentence: str
) -> None:
    body = manifest()
    body["metadata"]["name"] = "immutable"
    create(api, body, dry_run=None)
    try:
        with pytest.raises(ApiException) as error:
            api.patch_namespaced_custom_object(
                GROUP, VERSION, "default", PLURAL, "immutable", {"spec": change}
            )
        assert sentence in error.value.body
        patched = api.patch_namespaced_custom_object(
            GROUP, VERSION, "default", PLURAL, "immutable", {"spec": {"backoffLimit": 1}}
        )
        assert patched["spec"]["backoffLimit"] == 1
    finally:
        api.delete_namespaced_custom_object(GROUP, VERSION, "default", PLURAL, "immutable")
