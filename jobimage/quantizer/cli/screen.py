"""The terminal output of a run on this machine: a progress bar and a summary."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from quantization_api.manifest import Manifest
from quantizer.progress.tracker import Tracker
from quantizer.report.model_card import RTN_PREFIX, format_value
from quantizer.run.workflow import Outcome

REFRESH_SECONDS = 0.2


@contextlib.contextmanager
def progress_bar(tracker: Tracker, console: Console) -> Iterator[None]:
    """Shows the tracker's progress until the block ends; without a terminal, prints a line for each stage."""
    done = threading.Event()
    if not console.is_terminal:
        watcher = threading.Thread(target=_print_stages, args=(tracker, console, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        return
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[layers]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("check", total=100, layers="", eta="")

        def refresh() -> None:
            now = tracker.snapshot()
            bar.update(
                task,
                completed=now.percent,
                description=now.stage or "check",
                layers=f"layer {now.layer}/{now.layers}" if now.layers else "",
                eta=f"about {now.eta_seconds} s left" if now.eta_seconds else "",
            )

        def watch() -> None:
            while not done.wait(REFRESH_SECONDS):
                refresh()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _print_stages(tracker: Tracker, console: Console, done: threading.Event) -> None:
    shown = ""
    while not done.wait(REFRESH_SECONDS):
        stage = tracker.snapshot().stage
        if stage and stage != shown:
            console.print(stage)
            shown = stage


def summary(outcome: Outcome) -> RenderableType:
    """Where the artifact is, its sizes, and its metrics beside those of the input and of plain rounding."""
    result, manifest = outcome.result, outcome.manifest
    assert result.artifact is not None
    facts = [("artifact", result.artifact.uri)]
    if result.artifact.reused_from:
        facts.append(("", "already existed with this recipe; nothing was computed"))
    facts += [
        ("recipe", manifest.recipe),
        ("size", sizes(manifest)),
        ("read by", ", ".join(manifest.readers)),
    ]
    parts: list[RenderableType] = [facts_text(facts)]
    if result.metrics:
        parts += ["", metrics_table(manifest)]
    return Group(*parts)


def facts_text(facts: Sequence[tuple[str, str]]) -> Text:
    """Names and values, one pair per line; long values are not wrapped, so that they can be copied."""
    width = max(len(name) for name, _ in facts) + 2
    return Text(
        "\n".join(f"{name:<{width}}{value}" for name, value in facts), overflow="ignore", no_wrap=True
    )


def sizes(manifest: Manifest) -> str:
    """Sizes before and after, for people."""
    return (
        f"{manifest.input.size_bytes / 1e6:,.1f} MB -> {manifest.model_bytes() / 1e6:,.1f} MB "
        f"({manifest.compression_ratio:.2f} times smaller, {manifest.bits_per_weight:.3f} bits per weight)"
    )


def metrics_table(manifest: Manifest) -> Table:
    """Metrics of the input model, of the result, and of plain rounding on the same grid."""
    by_name = {item.name: item for item in manifest.metrics}
    table = Table("metric", box=None, pad_edge=False)
    for head in ("input model", "result", "plain rounding"):
        table.add_column(head, justify="right")
    for item in manifest.metrics:
        if item.name.startswith(RTN_PREFIX):
            continue
        plain = by_name.get(RTN_PREFIX + item.name)
        table.add_row(
            escape(item.name),
            format_value(item.input),
            format_value(item.output),
            format_value(plain.output) if plain else "",
        )
    return table
