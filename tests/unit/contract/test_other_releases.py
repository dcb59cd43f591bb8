"""Operator, quantizer and artifacts of different releases: what is reported is read, what is asked for is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.cluster_objects import JOB_UID, quantization_job, terminated
from tests.support.quantizer_requests import Request, run_here

from quantization_api import ENGINE_VERSION
from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import Manifest
from quantization_api.pod import RunProgress, RunResult
from quantization_operator.diagnose import result_of
from quantization_operator.progress import read_progress
from quantization_operator.snapshots import ChildPod, QuantizationJob
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT
from quantizer.store.manifests import parse_manifest

pytestmark = pytest.mark.unit

NEWER = {"fromTheFuture": {"x": 1}}
ARTIFACT = {
    "uri": "s3://b/p",
    "manifestDigest": f"sha256:{64 * 'a'}",
    "sizeBytes": 1,
    "compressionRatio": 2.0,
    "bitsPerWeight": 4.5,
}
MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "recipe": f"sha256:{64 * 'a'}",
    "engine_version": "9.1.0",
    "created": "2026-01-01T00:00:00Z",
    "input": {"model_path": "s3://b/m", "revision": "r", "architecture": "Llama", "size_bytes": 1},
    "workflow": {},
    "passes": ["GptqQuantizer"],
    "checkpoint_format": "gptq",
    "bits_per_weight": 4.5,
    "compression_ratio": 2.0,
    "readers": [],
    "metrics": [],
    "modules": [],
    "versions": {},
    "objects": [],
}


def test_progress_with_a_field_of_a_newer_quantizer_is_shown() -> None:
    assert read_progress(json.dumps({"percent": 12, **NEWER}).encode()) == RunProgress(percent=12)


def test_a_result_with_fields_of_a_newer_quantizer_is_one() -> None:
    said = {"recipe": f"sha256:{64 * 'b'}", "artifact": ARTIFACT | NEWER, **NEWER}
    result = result_of(_pod(terminated(0, json.dumps(said))))
    assert result is not None
    assert result.artifact is not None
    assert result.artifact.uri == "s3://b/p"


def test_a_failure_of_a_kind_that_only_newer_quantizers_know_keeps_its_words() -> None:
    said = {"failure": {"category": "TimeRanBackwards", "message": "it did", "hint": "Wait.", **NEWER}}
    result = result_of(_pod(terminated(70, json.dumps(said))))
    assert result is not None
    assert result.failure is not None
    assert (result.failure.category, result.failure.message) == (Category.INTERNAL, "it did")


@pytest.mark.parametrize("said", ["", "{", "[]", '{"failure": 3}', '{"artifact": {}}'])
def test_what_is_no_result_of_any_release_is_none(said: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        RunResult.from_message(said)


def test_a_status_with_a_field_of_a_newer_operator_is_read() -> None:
    status = {"jobUid": JOB_UID, "recipe": f"sha256:{64 * 'b'}", "artifact": ARTIFACT | NEWER, **NEWER}
    qjob = QuantizationJob.of(quantization_job(status=status))
    assert qjob is not None
    assert qjob.read_status().artifact is not None


def unknown_field(document: dict[str, Any]) -> None:
    document["fromTheFuture"] = True


def unknown_parameter(document: dict[str, Any]) -> None:
    document["workflow"]["passes"][0]["from_the_future"] = 3


def unknown_pass(document: dict[str, Any]) -> None:
    document["workflow"]["passes"][0] = {"type": "Futuristic"}


@pytest.mark.parametrize("change", [unknown_field, unknown_parameter, unknown_pass])
def test_a_request_that_an_older_image_does_not_understand_is_refused(
    change: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = Request(f"file://{tmp_path / 'out'}").document()
    change(document)
    monkeypatch.setattr(Request, "document", lambda _: document)
    ended = run_here(Request(f"file://{tmp_path / 'out'}"), tmp_path / "scratch")
    assert ended.result.failure is not None
    assert ended.result.failure.category is Category.INVALID_WORKFLOW
    assert f"This image is of release {ENGINE_VERSION}" in ended.result.failure.hint
    assert not (tmp_path / "out").exists()


def test_a_manifest_with_fields_of_a_newer_release_is_read() -> None:
    read = Manifest.read(json.dumps(MANIFEST | {"input": MANIFEST["input"] | NEWER} | NEWER).encode())
    assert read.engine_version == "9.1.0"


def test_a_manifest_of_another_schema_is_refused_with_both_releases(tmp_path: Path) -> None:
    data = json.dumps(MANIFEST | {"schema_version": 2, "objects": "elsewhere"}).encode()
    with pytest.raises(QuantizationError) as caught:
        parse_manifest(DirectoryStore(tmp_path, OUTPUT), data, Category.ARTIFACT_CORRUPT)
    assert "schema version 2, as quantizer 9.1.0 writes it" in caught.value.message
    assert f"quantizer {ENGINE_VERSION}" in caught.value.message
    assert caught.value.hint == "Use the quantizer of the release that wrote it."


def test_a_manifest_that_lacks_what_all_have_is_none() -> None:
    with pytest.raises(ValidationError):
        Manifest.read(b'{"schema_version": 1, "fromTheFuture": 1}')


def _pod(body: dict[str, Any]) -> ChildPod:
    pod = ChildPod.of(body)
    assert pod is not None
    return pod
