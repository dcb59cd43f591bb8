"""The generated part of docs/tuning.md: read, joined with newer tables and written, so made in pieces. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.tuning_guide.questions import QUESTIONS

BEGIN, END = "<!-- figures: begin; written by `make tuning-guide` -->", "<!-- figures: end -->"
MODELS = "The models"
MODELS_HEAD = ("model", "architecture", "parameters", "perplexity", "what it is")
HEAD = ("model", "setting", "KL divergence", "perplexity", "top-1 agreement", "bits per weight", "size, MB")
TITLES = (MODELS, *(question.title for question in QUESTIONS))
Row = Sequence[str]
"""Cells, the model first."""
NOTE = re.compile(r"Not measured: .+? of (?P<model>\S+)\. ")


@dataclass(frozen=True)
class Table:
    """What was found under a title."""

    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()
    """Of settings that were not measured."""

    def with_newer(self, newer: "Table") -> "Table":
        """With all that `newer` says of its models, in the place of what was said of them; other models stay."""
        again = {*map(_model, newer.rows), *map(_of_note, newer.notes)}
        order = {_model(row): None for row in [*self.rows, *newer.rows]}
        notes = [note for note in self.notes if _of_note(note) not in again]
        either = {model: [row for row in self.rows if _model(row) == model] for model in order}
        either |= {model: [row for row in newer.rows if _model(row) == model] for model in again & {*order}}
        return Table([row for model in order for row in either[model]], [*notes, *newer.notes])


Tables = Mapping[str, Table]
"""By title."""


def not_measured(setting: str, model: str, said: str) -> str:
    """A note."""
    return f"Not measured: {setting} of {model}. {said}"


def joined(page: Tables, newer: Tables) -> Tables:
    """The tables of the page with newer ones, of some questions and models; of a question that is no more, none."""
    return {
        title: page.get(title, Table()).with_newer(newer.get(title, Table()))
        for title in TITLES
        if title in page or title in newer
    }


def read(page: str) -> Tables:
    """The tables of a page.

    Raises:
        ValueError: the page has no markers.
    """
    _, _, rest = _cut(page)[1].partition("\n## ")
    found = {}
    for part in rest.split("\n## ") if rest else []:
        title, _, body = part.partition("\n")
        lines = body.splitlines()
        rows = [tuple(line.strip("| ").split(" | ")) for line in lines if line.startswith("| ")]
        found[title] = Table(rows[1:], [line for line in lines if NOTE.match(line)])
    return found


def with_tables(page: str, tables: Tables) -> str:
    """The page with other tables; raises as `read`."""
    before, _, after = _cut(page)
    parts = [BEGIN]
    for title, table in tables.items():
        head, align = (MODELS_HEAD, "llrrl") if title == MODELS else (HEAD, "llrrrrr")
        parts += ["", f"## {title}", "", *_lines(head, table.rows, align)]
        parts += [f"\n{note}" for note in table.notes]
    return before + "\n".join([*parts, "", END]) + after


def _cut(page: str) -> tuple[str, str, str]:
    """What is before, between and behind the markers."""
    before, begin, rest = page.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return before, between, after


def _lines(head: Row, rows: Sequence[Row], align: str) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if side == 'r' else '---' for side in align)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _model(row: Row) -> str:
    return row[0]


def _of_note(note: str) -> str:
    found = NOTE.match(note)
    return found["model"] if found else ""
