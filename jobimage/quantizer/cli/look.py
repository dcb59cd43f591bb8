"""`quantizer verify`, `quantizer inspect` and `quantizer logs`."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from quantization_api.failures import Category, ExitCode, QuantizationError
from quantizer.cli.asked import access_of, check_artifact, check_path
from quantizer.cli.ending import console, guarded
from quantizer.cli.logs import writable
from quantizer.cli.manifest_file import must_be_there
from quantizer.cli.signals import Stopping
from quantizer.store import kept_logs
from quantizer.store.interface import ARTIFACT
from quantizer.store.location import Location, open_store

NO_LOG = "Only pods keep their log, when they end; one that is killed, or cannot reach its storage then, keeps none."


def verify_command(options: argparse.Namespace) -> int:
    """Verifies; exit code 0 means that the artifact is complete and runs."""

    def action(beside: Console, stopping: Stopping) -> None:
        check_artifact(options.uri)
        if options.scratch is not None:
            must_be_there(options.scratch)
        from quantizer.cli.execution import scratch_parent
        from quantizer.machine import choose_device
        from quantizer.run.scratch import make_scratch
        from quantizer.run.verification import verify

        stopping.unwinds = True
        with (
            damaged_is_data(),
            make_scratch(scratch_parent(options.scratch)) as scratch,
            beside.status("list") as status,
        ):
            verified = verify(
                options.uri,
                access_of(options),
                choose_device(options.device),
                Path(scratch),
                lambda stage, done, total: status.update(f"{stage} {100 * done // max(1, total)} %"),
            )
        console().print(
            f"verified: {len(verified.manifest.objects)} objects, {verified.bytes / 1e6:,.1f} MB match the "
            f"manifest; the model loads and runs\n{verified.digest}",
            soft_wrap=True,
        )
        for key in verified.unlisted:
            console().print(f"not part of the artifact: {key}", soft_wrap=True, markup=False)

    return guarded(action)


def inspect_command(options: argparse.Namespace) -> int:
    """Describes a model or an artifact."""

    def action(_: Console, __: Stopping) -> None:
        try:
            check_artifact(options.uri)
        except QuantizationError:
            check_path(options.uri, Category.MODEL_NOT_FOUND, "the model or artifact")
        from quantizer.run.inspection import inspect

        with damaged_is_data():
            described = inspect(options.uri, access_of(options))
        if options.json:
            print(json.dumps(described, indent=2, ensure_ascii=False))
        else:
            from quantizer.cli.described import in_rows

            console().print(in_rows(described), soft_wrap=True)

    return guarded(action)


def logs_command(options: argparse.Namespace) -> int:
    """Prints the logs that pods kept; exit code 66 means that there is none."""

    def action(_: Console, __: Stopping) -> None:
        check_artifact(options.uri)
        store = open_store(Location.parse(options.uri), ARTIFACT, access_of(options))
        found = kept_logs.kept(store, options.uid)
        if not found:
            raise QuantizationError(Category.MODEL_NOT_FOUND, f"no log is kept at {store.uri}", NO_LOG)
        for worker, log in found.items():
            if len(found) > 1:
                print(f"==> {writable(worker)} <==")
            print(writable(log.decode(errors="backslashreplace")), end="")

    return guarded(action)


@contextlib.contextmanager
def damaged_is_data() -> Iterator[None]:
    """A damaged artifact stays damaged: a run that made it could try again, who looks at it cannot."""
    try:
        yield
    except QuantizationError as error:
        if error.category is Category.ARTIFACT_CORRUPT:
            raise QuantizationError(error.category, error.message, error.hint, ExitCode.DATA) from error
        raise
