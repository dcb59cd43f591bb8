"""artifactPolicy Delete with a real pod and a real store: the artifact goes with its object, and nothing beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.disturbed import pod_that_works, pods
from tests.support.quick_job import quick

from local_cluster import images, s3

pytestmark = pytest.mark.faults

EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
LIMIT = 300.0
Document = dict[str, Any]
Stored = Callable[[str], dict[str, str]]


def bound_to_its_object(manifest: Document) -> None:
    """The artifact is to go when the object goes."""
    quick(manifest)
    manifest["spec"]["artifactPolicy"] = "Delete"


@pytest.fixture
def neighbour(tmp_path: Path) -> Path:
    """A file of somebody else."""
    path = tmp_path / "notes.txt"
    path.write_text("not of the artifact")
    return path


def removed(whole: Any, name: str) -> None:
    """Delete the object as a user does, and wait until it is gone."""
    whole.kubectl("delete", "quantizationjob", name, "--timeout=120s")
    assert whole.kubectl("get", "quantizationjob", name, "--ignore-not-found") == ""


def clean_ups(whole: Any, name: str) -> list[Document]:
    """The Jobs that removed the artifact of an object."""
    label = f"quantization.dev/job-name={name},app.kubernetes.io/component=cleanup"
    found: list[Document] = whole.get("jobs", "--selector", label)["items"]
    return found


def test_the_artifact_goes_with_its_object_and_what_lies_beside_it_stays(
    whole: Any, stored: Stored, neighbour: Path
) -> None:
    whole.apply_example(EXAMPLE, "removed", bound_to_its_object)
    whole.wait("removed", "Ready", LIMIT)
    assert {"manifest.json", "model/model.safetensors", "README.md"} <= set(stored("removed"))
    with s3.opened(whole.target) as buckets:
        buckets.upload("artifacts", "e2e/removed", [neighbour])
    removed(whole, "removed")
    assert set(stored("removed")) == {neighbour.name}
    (job,) = clean_ups(whole, "removed")
    assert job["status"]["succeeded"] == 1
    (pod,) = whole.get("pods", "--selector", f"job-name={job['metadata']['name']}")["items"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_of_an_object_that_is_deleted_while_it_runs_nothing_is_left(whole: Any, stored: Stored) -> None:
    whole.apply_example(EXAMPLE, "removed-early", bound_to_its_object)
    pod_that_works(whole, "removed-early", 2)
    assert any(key.startswith(".state/") for key in stored("removed-early"))
    removed(whole, "removed-early")
    assert stored("removed-early") == {}
    assert all(pod["status"]["phase"] == "Succeeded" for pod in pods(whole, "removed-early"))
    (job,) = clean_ups(whole, "removed-early")
    assert job["status"]["succeeded"] == 1
