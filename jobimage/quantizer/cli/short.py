"""`quantizer quantize` and `quantizer init`: a model in one line."""

import argparse
from dataclasses import fields

from rich.console import Console

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunRequest
from quantizer.cli import logs
from quantizer.cli.asked import check_path, check_paths
from quantizer.cli.ending import guarded
from quantizer.cli.manifest_file import request_of
from quantizer.cli.run import run_to_the_end
from quantizer.cli.short_form import Manifest, Shape, ShortForm, manifest_of, render
from quantizer.cli.signals import Stopping

NO_HUB = "Check the path; nothing is downloaded from a hub."


def quantize_command(options: argparse.Namespace) -> int:
    """Prints the manifest, then runs it."""

    def ask() -> RunRequest:
        manifest = manifest_for(_form(options))
        print(render(manifest), flush=True)
        return request_of(manifest)

    logs.set_up(as_json=False)
    return run_to_the_end(ask, options, in_pod=False)


def init_command(options: argparse.Namespace) -> int:
    """Prints the manifest."""

    def action(_: Console, __: Stopping) -> None:
        print(render(manifest_for(_form(options))), end="")

    return guarded(action)


def manifest_for(form: ShortForm) -> Manifest:
    """The manifest for a short form, checked; looks at the model only to know what fits it.

    Raises:
        QuantizationError: ModelNotFound, DataNotFound, ModelUnsupported, InvalidWorkflow, AccessDenied,
            StorageUnavailable.
    """
    check_path(form.model, Category.MODEL_NOT_FOUND, "the model", NO_HUB)
    early = request_of(
        manifest_of(form, Shape((), 8))
    )  # what is wrong whatever the model is, before torch is imported
    check_paths(early)
    from quantizer.run.inspection import inspect

    described = inspect(form.model, early.storage)
    if described["kind"] != "model":
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"{form.model} is an artifact of this quantizer",
            "Give the model that it was made from.",
        )
    manifest = manifest_of(form, Shape(described["groupSizes"], described["maxPositions"]))
    request_of(manifest)
    return manifest


def _form(options: argparse.Namespace) -> ShortForm:
    return ShortForm(**{field.name: getattr(options, field.name) for field in fields(ShortForm)})
