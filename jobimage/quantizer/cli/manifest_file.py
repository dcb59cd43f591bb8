"""A QuantizationJob manifest in a file, for runs without a cluster: the same validation and the same messages."""

import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantization_api import API_VERSION, KIND
from quantization_api.bounded import DnsName
from quantization_api.failures import Category, ExitCode, QuantizationError
from quantization_api.faults import sentences
from quantization_api.pod import RunRequest
from quantization_api.spec import QuantizationJobSpec
from quantizer.boundary.reading import reading
from quantizer.boundary.yaml_file import read_file, yaml_documents
from quantizer.run.local_identity import local_uid

CORRECT = "Correct the manifest as the message says."
OLIVE_FIELDS = {"input_model", "passes", "pass_flows", "systems", "engine", "data_configs"}
"""Fields at the top of a run config of Olive."""


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: DnsName
    namespace: DnsName = "default"


class _Job(BaseModel):
    model_config = ConfigDict(extra="forbid")
    api_version: str = Field(alias="apiVersion")
    kind: str
    metadata: _Metadata
    spec: QuantizationJobSpec
    status: dict[str, Any] | None = None


def load_request(
    path: Path, endpoint: str | None = None, region: str | None = None, patience: int | None = None
) -> RunRequest:
    """The request that the operator would make from the manifest.

    Paths that begin with ./ or ../ are relative to the file (a cluster refuses such paths). endpoint and
    region replace those of spec.storage, whose names may not resolve outside the cluster; credentials
    come from the environment, never from spec.storage.credentialsSecret.

    Raises:
        QuantizationError: InvalidWorkflow with the field and what is wrong with it.
    """
    must_be_there(path)
    with reading(Category.INVALID_WORKFLOW, str(path), CORRECT):
        documents = [item for item in yaml_documents(read_file(path)) if item is not None]
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise _invalid(f"{path} must contain exactly one {KIND}; it contains {len(documents)} documents")
    document = documents[0]
    if "apiVersion" not in document and OLIVE_FIELDS & document.keys():
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"{path} is a run config of Olive, not a {KIND}",
            f"Turn it into one: quantizer import {shlex.quote(str(path))} -o {path.stem}-job.yaml",
        )
    if (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise _invalid(
            f"{path} is {document.get('apiVersion')} {document.get('kind')}; expected {API_VERSION} {KIND}"
        )
    with reading(Category.INVALID_WORKFLOW, str(path), CORRECT):
        _resolve_paths(document, path.absolute().parent)
        request = request_of(document)
    return reached_by(request, endpoint, region, patience)


def request_of(document: dict[str, Any]) -> RunRequest:
    """The request of a manifest that was read.

    Raises:
        QuantizationError: InvalidWorkflow with the field and what is wrong with it.
    """
    try:
        job = _Job.model_validate(document)
    except ValidationError as error:
        raise _invalid(describe(error)) from error
    return RunRequest.from_spec(job.metadata.name, job.metadata.namespace, local_uid(), job.spec)


def must_be_there(path: Path) -> None:
    """Refuses a file or a directory that an option names and that does not exist."""
    if not path.exists():
        raise QuantizationError(
            Category.INVALID_WORKFLOW, f"{path} does not exist", "Check the path.", ExitCode.NOT_FOUND
        )


def reached_by(
    request: RunRequest, endpoint: str | None, region: str | None, patience: int | None = None
) -> RunRequest:
    """The request with its storage's endpoint, region and patience (in seconds) replaced, where they are given."""
    given = {"endpoint": endpoint or None, "region": region or None, "patience_seconds": patience}
    changed = {name: value for name, value in given.items() if value is not None}
    return request.model_copy(update={"storage": request.storage.model_copy(update=changed)})


def describe(error: ValidationError) -> str:
    """A validation error in one line, as "field: what is wrong" for each fault."""
    return "; ".join(sentences(error))


def _resolve_paths(document: dict[str, Any], folder: Path) -> None:
    spec = document.get("spec")
    workflow = spec.get("workflow") if isinstance(spec, dict) else None
    places: list[tuple[Any, str]] = []
    if isinstance(spec, dict):
        places.append((spec.get("output"), "uri"))
    if isinstance(workflow, dict):
        places.append((workflow.get("input_model"), "model_path"))
        configs = workflow.get("data_configs")
        for config in configs if isinstance(configs, list) else []:
            if isinstance(config, dict):
                places.append((config.get("load_dataset_config"), "data_name"))
        places += [(metric, "tasks_from") for metric in _metrics(workflow)]
    for holder, key in places:
        value = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(value, str) and value.startswith(("./", "../")):
            found = f"file://{(folder / value).resolve()}"
            holder[key] = (
                found if key == "uri" else found.replace("%", "%25")
            )  # an output is taken as it is written


def _metrics(workflow: dict[str, Any]) -> list[Any]:
    return [metric for item in _items(workflow, "evaluators") for metric in _items(item, "metrics")]


def _items(holder: Any, field: str) -> list[Any]:
    value = holder.get(field) if isinstance(holder, dict) else None
    return value if isinstance(value, list) else []


def _invalid(message: str) -> QuantizationError:
    return QuantizationError(Category.INVALID_WORKFLOW, message, CORRECT)
