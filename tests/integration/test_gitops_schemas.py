"""The objects of docs/gitops.md, on a real API server that knows the kinds of Argo CD and Flux.

Their schemas are files of others and are not kept here. QUANTIZATION_GITOPS_KINDS names a folder with those of a
release.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.crd import until_kinds_are_served
from tests.support.documented import blocks

from local_cluster.control_plane import ApiServer
from local_cluster.errors import ClusterError

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

PAGE = "docs/gitops.md"
FOLDER = "QUANTIZATION_GITOPS_KINDS"
KINDS = {
    "ApplicationSet": "applicationset-crd.yaml",
    "Kustomization": "kustomize.toolkit.fluxcd.io_kustomizations.yaml",
}
"""By kind, the file as its project names it: of Argo CD in manifests/crds, of Flux's kustomize-controller in
config/crd/bases."""
OBJECTS = [
    each
    for place, text in blocks("yaml")
    if place == PAGE
    for each in yaml.safe_load_all(text)
    if each["kind"] in KINDS and "kustomize.config" not in each["apiVersion"]  # that one is kustomize's own
]


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    folder = Path(os.environ.get(FOLDER, "missing"))
    if missing := [name for name in KINDS.values() if not (folder / name).is_file()]:
        pytest.skip(f"{FOLDER} names no folder with {' and '.join(missing)} of Argo CD and Flux")
    with ApiServer() as server:
        for name in KINDS.values():
            server.kubectl("apply", "--server-side", "-f", folder / name)
        until_kinds_are_served(server)
        for namespace in {each["metadata"]["namespace"] for each in OBJECTS}:
            server.kubectl("create", "namespace", namespace)
        yield server


def apply(api: ApiServer, body: dict[str, Any]) -> str:
    said = api.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(body)
    )
    return said.stdout + said.stderr


def test_the_page_has_an_object_of_each_kind() -> None:
    assert {each["kind"] for each in OBJECTS} == set(KINDS)


@pytest.mark.parametrize("body", OBJECTS, ids=lambda body: body["metadata"]["name"])
def test_an_object_of_the_page_is_taken(api: ApiServer, body: dict[str, Any]) -> None:
    assert "Warning" not in apply(api, body)


@pytest.mark.parametrize("body", OBJECTS, ids=lambda body: body["metadata"]["name"])
def test_a_word_that_the_kind_does_not_know_is_seen(api: ApiServer, body: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match=r'unknown field "spec\.colour"'):
        apply(api, body | {"spec": body["spec"] | {"colour": "blue"}})
