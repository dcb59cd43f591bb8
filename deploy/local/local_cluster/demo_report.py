"""Prints what the demo's job has made: status, conditions, artifact, the model card's figures and metrics."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from local_cluster.buckets import StoredFile

_OPERATOR_METRICS = (
    "quantization_jobs",
    "quantization_job_duration_seconds_sum",
    "quantization_artifact_bytes_total",
    "quantization_workqueue_depth",
    "quantization_watch_age_seconds",
)
_POD_METRICS = (
    "quantizer_progress_ratio",
    "quantizer_stage_seconds",
    "quantizer_bytes",
    "quantizer_tokens",
    "quantizer_peak_memory_bytes",
)
_SHOWN_OF_THE_CARD = ("Quality", "Size", "Read by")


def select(text: str, names: Iterable[str]) -> list[str]:
    """The samples of the named metrics in Prometheus' text format; a name also selects its `_total`."""
    wanted = {variant for name in names for variant in (name, f"{name}_total")}
    samples = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [line for line in samples if line.partition(" ")[0].partition("{")[0] in wanted]


def sections(card: str, names: Iterable[str]) -> str:
    """The sections of a Markdown document below these headings, in its order."""
    parts = card.split("\n## ")[1:]
    wanted = set(names)
    return "".join(f"## {part}\n" for part in parts if part.partition("\n")[0] in wanted)


class Report:
    """Sections on a console; `$` marks the commands that a reader can repeat."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def section(self, title: str) -> None:
        """A headline."""
        self._console.print(f"\n[bold]{title}[/]")

    def command(self, command: str, output: str) -> None:
        """A command and what it printed."""
        self._console.print(f"$ {command}", markup=False, style="cyan")
        self._console.print(output.rstrip(), markup=False)

    def conditions(self, job: Mapping[str, Any]) -> None:
        """The conditions of the status."""
        table = Table("condition", "status", "reason", "message", box=None, pad_edge=False)
        for item in job["status"].get("conditions", []):
            table.add_row(item["type"], item["status"], item["reason"], item.get("message", ""))
        self._console.print(table)

    def objects(self, uri: str, objects: Iterable[StoredFile]) -> None:
        """The artifact's objects in the bucket."""
        table = Table("object", "bytes", box=None, pad_edge=False, title=uri, title_justify="left")
        table.columns[1].justify = "right"
        for item in objects:
            table.add_row(item.key, f"{item.size:,}")
        self._console.print(table)

    def card(self, card: str) -> None:
        """What the model card says of quality, goals among it, of sizes and of readers."""
        self._console.print(Markdown(sections(card, _SHOWN_OF_THE_CARD)))

    def metrics(self, operator: str, pod: str) -> None:
        """A few samples of both."""
        for line in (*select(operator, _OPERATOR_METRICS), *select(pod, _POD_METRICS)):
            self._console.print(line, markup=False)
