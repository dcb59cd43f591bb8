"""`quantizer report` and `quantizer compare`: what manifests say, for people."""

import argparse
import contextlib
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from quantization_api.failures import Category, ExitCode, QuantizationError
from quantization_api.manifest import Manifest
from quantization_api.pod import StorageAccess
from quantizer.cli.asked import check_artifact
from quantizer.cli.ending import console, guarded
from quantizer.cli.look import damaged_is_data
from quantizer.cli.signals import Stopping
from quantizer.store.location import Location

if TYPE_CHECKING:
    from quantizer.report.comparison import Compared

PAGE = "report.html"
STDOUT = Path("-")
"""As an output: the page goes to standard output, as from a pod whose files nobody sees."""


def report_command(options: argparse.Namespace) -> int:
    """Makes the report of an artifact again."""

    def action(_: Console, __: Stopping) -> None:
        check_artifact(options.uri)
        if options.output == STDOUT:
            sys.stdout.buffer.write(_report_of(options.uri, options)[PAGE])
            return
        folder = options.output or Path(f"{Path(Location.parse(options.uri).path).name}-report")
        _stays_outside(folder, options.uri)
        files = _report_of(options.uri, options)
        with _written(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
        _show(folder / PAGE, options.open)

    return guarded(action)


def compare_command(options: argparse.Namespace) -> int:
    """Puts artifacts side by side."""

    def action(_: Console, __: Stopping) -> None:
        for uri in options.uris:
            check_artifact(uri)
        from quantizer.report.comparison import numbered

        artifacts = numbered([(uri, _manifest(uri, options)) for uri in options.uris])
        with _understood("one of these artifacts"):
            shown = side_by_side(artifacts)
        console().print(shown, soft_wrap=True)
        if options.output is not None:
            from quantizer.report.comparison_page import comparison_page  # brings matplotlib

            made = comparison_page(artifacts)
            with _written(options.output):
                options.output.write_bytes(made)
            _show(options.output, options.open)

    return guarded(action)


def side_by_side(artifacts: "list[Compared]") -> RenderableType:
    """The table of a comparison, which is best, who reads each, and what speaks against comparing them."""
    from quantizer.report.comparison import all_measures, best, cells, doubts, head

    shown = all_measures(artifacts)
    first, *others = head(shown)
    table = Table(first, "method", box=None, pad_edge=False)
    for name in others:
        table.add_column(escape(name), justify="right")
    for item in artifacts:
        (name, method), *figures = cells(item, shown)
        row = [f"{value} ({beside})" if beside else value for value, beside in figures]
        table.add_row(escape(name), escape(method), *map(escape, row))
    readers = [
        f"{item.number} is read by {', '.join(item.manifest.readers) or 'no known software'}"
        for item in artifacts
    ]
    against = [f"Not comparable: {doubt.sentence}" for doubt in doubts(artifacts)]
    return Group(table, "", *map(escape, [*against, best(artifacts), *readers]))


def _report_of(uri: str, options: argparse.Namespace) -> dict[str, bytes]:
    manifest = _manifest(uri, options)
    from quantizer.report.document import report_files
    from quantizer.report.gallery import pictures

    with _understood(uri):
        return report_files(manifest, pictures(manifest))


def _manifest(uri: str, options: argparse.Namespace) -> Manifest:
    from quantizer.run.inspection import manifest_at

    with damaged_is_data():
        return manifest_at(uri, StorageAccess(endpoint=options.endpoint, region=options.region))


def _stays_outside(folder: Path, uri: str) -> None:
    """An artifact is what its manifest lists: nothing is put beside that."""
    place = Location.parse(uri)
    if place.bucket is None and folder.absolute().resolve().is_relative_to(Path(place.path).resolve()):
        raise QuantizationError(
            Category.ARTIFACT_CONFLICT,
            f"{folder} is inside the artifact, which stays as it was published",
            "Name another folder with -o.",
        )


@contextlib.contextmanager
def _understood(uri: str) -> Iterator[None]:
    """A manifest may be one and yet hold a workflow, or figures, that no release wrote."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT,
            f"the manifest of {uri} has a workflow or figures that this release cannot show ({type(error).__name__})",
            "If another release made it, use that one's quantizer.",
            ExitCode.DATA,
        ) from error


@contextlib.contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise QuantizationError(
            Category.ACCESS_DENIED if isinstance(error, PermissionError) else Category.INTERNAL,
            f"{target} cannot be written: {error.strerror}",
            "Name another place with -o.",
            ExitCode.CANNOT_CREATE_OUTPUT,
        ) from error


def _show(page: Path, at_once: bool) -> None:
    """Says where the page is, and opens it where that was asked for."""
    console().print(f"{page}", soft_wrap=True, markup=False, highlight=False)
    if at_once and not webbrowser.open(page.absolute().as_uri()):
        console(stderr=True).print("There is no browser to open it with; open the file yourself.")
