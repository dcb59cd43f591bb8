"""The table of docs/faults.md: which tests inject its faults. It decides what `make faults` runs."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/faults.md"
WORDS = {"schedules": "faults/test_schedules", "storm": "faults/test_long_storm"}
"""Files that the page calls by another name."""


@dataclass(frozen=True, slots=True)
class Named:
    """Tests of a file, `*` for all of them, or those whose name fits a pattern."""

    file: str
    pattern: str = "*"

    def fits(self, file: str, test: str) -> bool:
        """Whether it means this test; file: the path below tests, without suffix."""
        return file == self.file and fnmatchcase(test, self.pattern)


@cache
def table() -> dict[str, tuple[Named, ...]]:
    """The tests of each fault, by its words in the first column."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]
    return {row[0]: _named(row[-1]) for row in rows}


def file_of(path: Path) -> str:
    """How the page names a file of tests: its path below tests, without suffix."""
    return path.relative_to(TESTS).with_suffix("").as_posix()


def names(file: str, test: str) -> bool:
    """Whether the table names this test."""
    return any(named.fits(file, test) for row in table().values() for named in row)


def _named(cell: str) -> tuple[Named, ...]:
    found = []
    for item in cell.rstrip(" |").split(", "):
        if item in WORDS:
            found.append(Named(WORDS[item]))
        elif match := re.fullmatch(r"`([\w/]*test_\w+)(?:::([\w*]+))?`", item):
            found.append(Named(match[1], match[2] or "*"))
        else:
            raise ValueError(f"docs/faults.md names no test with {item!r}")
    return tuple(found)
