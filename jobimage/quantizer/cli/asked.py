"""The request of `quantizer run`, from a manifest or a pod's environment: checked before torch is imported."""

import argparse
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantization_api import ENGINE_VERSION
from quantization_api.constants import REQUEST_ENV
from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunRequest, StorageAccess
from quantizer.boundary.reading import reading
from quantizer.cli.manifest_file import describe, load_request, reached_by
from quantizer.store.location import Location

OF_ANOTHER_RELEASE = (
    f"This image is of release {ENGINE_VERSION} and the operator of another one. Leave spec.template.image out, or "
    "name the image of the operator's release."
)


def asked_for(options: argparse.Namespace) -> RunRequest:
    """What the options ask for.

    Raises:
        QuantizationError: InvalidWorkflow; ModelNotFound or DataNotFound for a path of this machine that is not there.
    """
    if options.filename is None:
        return reached_by(_request_of_pod(), options.endpoint, options.region, options.patience)
    request = load_request(options.filename, options.endpoint, options.region, options.patience)
    check_paths(request)
    return request.model_copy(update={"default_calibration": options.default_calibration})


def access_of(options: argparse.Namespace, **more: Any) -> StorageAccess:
    """How storage is reached, from the options of a command."""
    given = {"endpoint": options.endpoint, "region": options.region, "patience_seconds": options.patience}
    return StorageAccess(**{name: value for name, value in given.items() if value is not None}, **more)


def check_paths(request: RunRequest) -> None:
    """Refuses a model or a text that is not on this machine, before seconds are spent on anything else."""
    workflow = request.workflow
    check_path(workflow.input_model.model_path, Category.MODEL_NOT_FOUND, "input_model.model_path")
    for name in workflow.used_data_configs():
        uri = workflow.data_config(name).load_dataset_config.data_name
        check_path(uri, Category.DATA_NOT_FOUND, f"data config {name}")
    for metric in workflow.metrics():
        if metric.tasks_from is not None:
            check_path(metric.tasks_from, Category.DATA_NOT_FOUND, f"the tasks of metric {metric.name}")


def check_path(uri: str, category: Category, what: str, hint: str = "Check the path.") -> None:
    """Refuses a path of this machine at which there is no model or text to read."""
    _check_place(Location.of_input(uri), category, what, hint)


def check_artifact(uri: str) -> None:
    """Refuses a path of this machine at which there is no artifact; it is taken as it is written, as an output is."""
    _check_place(Location.parse(uri), Category.MODEL_NOT_FOUND, "the artifact", "Check the path.")


def _check_place(place: Location, category: Category, what: str, hint: str) -> None:
    if place.bucket is None and not Path(place.path).exists():
        raise QuantizationError(category, f"{what}: there is nothing at {place.path}", hint)


def _request_of_pod() -> RunRequest:
    """Every operator checks what it asks for, so what cannot be read was checked by one of another release."""
    with reading(Category.INVALID_WORKFLOW, f"the request in {REQUEST_ENV}", OF_ANOTHER_RELEASE):
        try:
            return RunRequest.model_validate_json(os.fsencode(os.environ[REQUEST_ENV]))
        except ValidationError as error:
            raise ValueError(describe(error)) from error
