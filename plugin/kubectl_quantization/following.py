"""`status`: jobs and how far they are, once or until all have ended."""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from kubectl_quantization import shown
from kubectl_quantization.cluster import QJOBS, Cluster, Document, PluginError, created, phase_of

PAUSE_SECONDS = 2.0
PATIENCE = 5
"""How often in a row the cluster may fail to answer while it is watched."""
UP, CLEAR = "\x1b[{}F", "\x1b[J"

Look = Callable[[], list[Document]]


def status_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Shows jobs; with --watch, 1 if one of them failed."""

    def look() -> list[Document]:
        return sought(cluster, options.names, options.selector, options.all_namespaces)

    found = look()
    if not found:
        print("There are no QuantizationJobs here; -A shows those of all namespaces.", file=sys.stderr)
        return 0
    if options.watch:
        return watch(look, options.all_namespaces)
    rows = [shown.Row.of(job) for job in found]
    print("\n".join(shown.lines(rows, options.all_namespaces, _blocks(sys.stdout))))
    return 0


def sought(cluster: Cluster, names: Sequence[str], selector: str, everywhere: bool) -> list[Document]:
    """The jobs that were asked for, the oldest first.

    Raises:
        PluginError: one that was named is not there, or names were given beside what would ignore them.
    """
    if names and (selector or everywhere):
        raise PluginError("Name jobs, or choose them with -l or -A: both do not go together.")
    if len(names) == 1:
        return [cluster.job(names[0])]
    if names:
        return cluster.listing(QJOBS, *names)
    more = ([f"--selector={selector}"] if selector else []) + ["--all-namespaces"] * everywhere
    return sorted(cluster.listing(QJOBS, *more), key=created)


def watch(
    look: Look,
    namespaces: bool = False,
    stream: TextIO | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Shows jobs until all have ended; 1 if one of them failed.

    On a terminal the lines are drawn over; elsewhere a line is written for each change of phase, stage or ten percent.

    Raises:
        PluginError: the cluster does not answer, or none of the jobs is there any more.
    """
    screen = _Screen(stream or sys.stdout, namespaces)
    silent = 0
    while True:
        try:
            jobs, silent = look(), 0
        except PluginError:
            silent += 1
            if silent == PATIENCE:
                raise
            pause(PAUSE_SECONDS)
            continue
        if not jobs:
            raise PluginError("The jobs that were watched are gone.")
        screen.show([shown.Row.of(job) for job in jobs])
        if all(map(shown.ended, jobs)):
            return int(any(phase_of(job) == "Failed" for job in jobs))
        pause(PAUSE_SECONDS)


class _Screen:
    """Where jobs are shown again and again."""

    def __init__(self, stream: TextIO, namespaces: bool) -> None:
        self._stream, self._namespaces = stream, namespaces
        self._drawn = 0
        self._told: dict[tuple[str, str], tuple[str, int, str]] = {}

    def show(self, rows: list[shown.Row]) -> None:
        if self._stream.isatty():
            self._draw(rows)
        else:
            self._tell(rows)
        self._stream.flush()

    def _draw(self, rows: list[shown.Row]) -> None:
        size = shutil.get_terminal_size()
        lines = shown.lines(rows, self._namespaces, _blocks(self._stream))
        if len(lines) >= size.lines:  # what has scrolled away cannot be drawn over
            lines = [*lines[: size.lines - 2], f"... and {len(lines) - size.lines + 2} more"]
        if self._drawn:
            self._stream.write(UP.format(self._drawn) + CLEAR)
        self._stream.write("".join(f"{line[: size.columns - 1]}\n" for line in lines))
        self._drawn = len(lines)

    def _tell(self, rows: list[shown.Row]) -> None:
        for row in rows:
            seen = (row.phase, row.percent // 10, row.words.partition(",")[0])
            if self._told.get((row.namespace, row.name)) == seen:
                continue
            self._told[row.namespace, row.name] = seen
            place = f"{row.namespace}/" if self._namespaces else ""
            self._stream.write(
                f"{place}{row.name}  {row.phase}  {row.percent} %  {row.words}".rstrip() + "\n"
            )


def _blocks(stream: TextIO) -> bool:
    return "utf" in (stream.encoding or "").lower()
