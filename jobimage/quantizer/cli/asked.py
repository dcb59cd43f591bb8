"""The request of `quantizer run`, from a manifest or a pod's environment: checked before torch is imported."""

import argparse
import os
from pathlib import Path

from pydantic import ValidationError

from quantization_api.constants import REQUEST_ENV
from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunRequest
from quantizer.boundary.reading import reading
from quantizer.cli.manifest_file import describe, load_request, reached_by
from quantizer.store.location import Location


def asked_for(options: argparse.Namespace) -> RunRequest:
    """What the options ask for.

    Raises:
        QuantizationError: InvalidWorkflow; ModelNotFound or DataNotFound for a path of this machine that is not there.
    """
    if options.filename is None:
        return reached_by(_request_of_pod(), options.endpoint, options.region)
    request = load_request(options.filename, options.endpoint, options.region)
    check_paths(request)
    return request.model_copy(update={"default_calibration": options.default_calibration})


def check_paths(request: RunRequest) -> None:
    """Refuses a model or a text that is not on this machine, before seconds are spent on anything else."""
    workflow = request.workflow
    check_path(workflow.input_model.model_path, Category.MODEL_NOT_FOUND, "input_model.model_path")
    for name in workflow.used_data_configs():
        uri = workflow.data_config(name).load_dataset_config.data_name
        check_path(uri, Category.DATA_NOT_FOUND, f"data config {name}")


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
    with reading(Category.INVALID_WORKFLOW, f"the request in {REQUEST_ENV}"):
        try:
            return RunRequest.model_validate_json(os.fsencode(os.environ[REQUEST_ENV]))
        except ValidationError as error:
            raise ValueError(describe(error)) from error
