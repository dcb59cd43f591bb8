"""What quality costs in time: on each grid, every engine's KL beside its CPU seconds. Kept from run to run.

A run adds the engines that it ran on its grid to what earlier runs into the same folder found. So the whole is made in
pieces: a grid takes minutes, and a peer need not run again because native has changed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from tests.benchmarks.quantization.cases import NATIVE, PLAIN, Method
from tests.benchmarks.quantization.table import NOTHING, Row, line

COLUMNS = ("engine", "KL", "CPU seconds", "KL beside the best peer's", "time beside that peer's", "rounds")


@dataclass(frozen=True)
class Point:
    """One engine on one grid.

    cell: model, text, grid and machine in words; only points of one cell and method are compared. cpu_seconds: 0 of
    plain rounding, which takes none to speak of.
    """

    cell: str
    method: Method
    engine: str
    kl_divergence: float
    cpu_seconds: float
    rounds: int

    @property
    def ours(self) -> bool:
        """Whether it is a level of the native engine."""
        return self.engine.split("-")[0] == NATIVE


def points(cell: str, rows: Sequence[Row]) -> list[Point]:
    """Of the rows that have both figures, and of plain rounding."""
    return [
        Point(cell, row.method, row.engine, row.verdict.kl_divergence, row.cpu_seconds, row.rounds)
        for row in rows
        if row.judged and (row.cpu_seconds or row.engine == PLAIN)
    ]


def merged(before: Sequence[Point], now: Sequence[Point]) -> list[Point]:
    """Those of now in place of those before, by cell, method and time; a cell keeps its place."""
    found = {(point.cell, point.method, point.engine): point for point in (*before, *now)}
    places = {cell: place for place, cell in enumerate(dict.fromkeys(cell for cell, *_ in found))}
    return sorted(found.values(), key=lambda point: (places[point.cell], point.method, point.cpu_seconds))


def read(path: Path) -> list[Point]:
    """What earlier runs kept; nothing where there was none."""
    return [Point(**point) for point in json.loads(path.read_text())] if path.exists() else []


def document(kept: Sequence[Point]) -> str:
    """For `read`."""
    return json.dumps([asdict(point) for point in kept], indent=2) + "\n"


def by_cell(kept: Sequence[Point]) -> Iterator[tuple[str, list[Point]]]:
    """The points that are compared, with what they have in common in words."""
    for (cell, method), found in groupby(kept, key=lambda point: (point.cell, point.method)):
        yield f"{method.upper()}, {cell}", list(found)


def markdown(kept: Sequence[Point]) -> str:
    """A table for each cell."""
    parts = list[str]()
    for words, found in by_cell(kept):
        peers = [point for point in found if not point.ours and point.cpu_seconds]
        best = min(peers, key=lambda point: point.kl_divergence, default=None)
        parts += [f"**{words}**", "", line(COLUMNS), line(["---"] * len(COLUMNS))]
        parts += [line(_cells(point, best)) for point in found] + [""]
    return "\n".join(parts)


def _cells(point: Point, best: Point | None) -> list[str]:
    compared = best is not None and point.ours
    return [
        point.engine,
        f"{point.kl_divergence:.4f}",
        f"{point.cpu_seconds:.1f}" if point.cpu_seconds else NOTHING,
        f"{point.kl_divergence / best.kl_divergence:.2f} x" if compared and best else NOTHING,
        f"{point.cpu_seconds / best.cpu_seconds:.2f} x" if compared and best else NOTHING,
        str(point.rounds) if point.rounds else NOTHING,
    ]
