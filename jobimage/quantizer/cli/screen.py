"""What a run on this machine shows: a progress bar on a terminal, and a summary."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from quantization_api.manifest import REPORT_PREFIX, Manifest, TrialRecord
from quantization_api.pod import RunProgress
from quantizer.progress.lines import duration
from quantizer.progress.tracker import Tracker
from quantizer.report.quality import measured_with, quality
from quantizer.report.sizes import bits, sizes
from quantizer.run.workflow import Outcome

REFRESH_SECONDS = 0.2


@contextlib.contextmanager
def progress_bar(tracker: Tracker, console: Console) -> Iterator[None]:
    """Shows the tracker's progress until the block ends; only on a terminal, elsewhere the run says lines."""
    if not console.is_terminal:
        yield
        return
    done = threading.Event()
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
                layers=_place(now),
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


def _place(now: RunProgress) -> str:
    """Where a run is: the trial of a search, and the layer."""
    trials = f"trial {min(now.search.done + 1, now.search.total)}/{now.search.total} " if now.search else ""
    return f"{trials}layer {now.layer}/{now.layers}" if now.layers else trials


def summary(outcome: Outcome, seconds: Mapping[str, float], endpoint: str | None = None) -> RenderableType:
    """Where the artifact is, its sizes, its metrics beside those of the input and of RTN, and the report.

    seconds: by stage. endpoint: of S3, for the command that fetches the report.
    """
    result, manifest = outcome.result, outcome.manifest
    assert result.artifact is not None
    facts = [("artifact", result.artifact.uri)]
    if result.artifact.reused_from:
        facts.append(("", "already existed with this recipe; nothing was computed"))
    facts += [
        ("recipe", manifest.recipe),
        ("size", f"{sizes(manifest)}; {bits(manifest)}"),
        ("read by", ", ".join(manifest.readers)),
        ("time", times(seconds)),
        *speed_facts(manifest),
        *report_facts(manifest, result.artifact.uri, endpoint),
    ]
    parts: list[RenderableType] = [facts_text(facts)]
    if result.metrics:
        parts += ["", metrics_table(manifest)]
    if manifest.trials:
        parts += ["", trials_table(manifest)]
    return Group(*parts)


def times(seconds: Mapping[str, float]) -> str:
    """The time taken, and how it was spent."""
    stages = ", ".join(f"{name} {duration(spent)}" for name, spent in seconds.items())
    return f"{duration(sum(seconds.values()))} ({stages})"


def speed_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """In which software and on what speed and memory were measured; nothing without such metrics."""
    told = measured_with(manifest)
    return [("speed", told)] if told else []


def report_facts(manifest: Manifest, uri: str, endpoint: str | None) -> list[tuple[str, str]]:
    """Where the report lies, and how to open it; nothing for an artifact without one."""
    pages = [
        item.key
        for item in manifest.objects
        if item.key.startswith(REPORT_PREFIX) and item.key.endswith(".html")
    ]
    if not pages:
        return []
    place = f"{uri}/{pages[0]}"
    if place.startswith("s3://"):
        server = f" --endpoint-url {quote(endpoint)}" if endpoint else ""
        how = f"fetch it: aws s3 cp {quote(place)} .{server}"
    else:
        how = f"open it: python3 -m webbrowser {quote(place)}"
    return [("report", place), ("", how)]


def facts_text(facts: Sequence[tuple[str, str]]) -> Text:
    """Names and values, one pair per line; long values are not wrapped, so that they can be copied."""
    width = max(len(name) for name, _ in facts) + 2
    return Text(
        "\n".join(f"{name:<{width}}{value}" for name, value in facts), overflow="ignore", no_wrap=True
    )


def metrics_table(manifest: Manifest) -> Table:
    """Metrics of the input model, of the result, and of RTN (rounding to nearest) to the same bits; and the goals."""
    rows = quality(manifest)
    table = Table("metric", box=None, pad_edge=False)
    for head in ("input model", "result", "change", "RTN"):
        table.add_column(head, justify="right")
    with_goals = any(row.goal for row in rows)
    if with_goals:
        table.add_column("goal")
    for row in rows:
        cells = (escape(row.name), row.before, row.after, row.change, row.rtn)
        table.add_row(*cells, *([row.goal] if with_goals else []))
    return table


def trials_table(manifest: Manifest) -> Table:
    """Every point of a search, in its order: what it chose, its metrics, its size; front and choice are marked."""
    names = list(dict.fromkeys(name for trial in manifest.trials for name in trial.parameters))
    metrics = list(dict.fromkeys(item.name for trial in manifest.trials for item in trial.metrics))
    table = Table("trial", box=None, pad_edge=False)
    for head in (*names, *metrics, "MB"):
        table.add_column(escape(head), justify="right")
    table.add_column("")
    for trial in manifest.trials:
        figures = {item.name: item.output for item in trial.metrics}
        table.add_row(
            str(trial.number),
            *(escape(_cell(trial.parameters.get(name, ""))) for name in names),
            *(_figure(figures.get(name)) for name in metrics),
            _figure(None if trial.size_bytes is None else trial.size_bytes / 1e6),
            escape(_remark(trial)),
        )
    return table


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _remark(trial: TrialRecord) -> str:
    if trial.state != "Finished":
        return f"{trial.state.lower()}: {trial.said}"
    return "chosen" if trial.best else "on the front" if trial.on_front else ""
