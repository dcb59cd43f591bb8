"""Which tests run when: cases that `make test` leaves to `make nightly`, and where `make` looks for tests."""

import re
from pathlib import Path

import pytest
from tests.support.choice import mostly_nightly

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]


def test_only_the_named_cases_run_every_time() -> None:
    parameters = mostly_nightly(["a", "b", ("c", "d")], {"b"})
    assert [parameter.values for parameter in parameters] == [("a",), ("b",), ("c", "d")]
    assert [[mark.name for mark in parameter.marks] for parameter in parameters] == [
        ["nightly"],
        [],
        ["nightly"],
    ]


def test_a_case_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no cases: \['c'\]"):
        mostly_nightly(["a", "b"], ["c"])


@pytest.mark.parametrize("kind", ["unit", "integration", "e2e"])
def test_every_test_of_a_kind_lies_where_make_looks_for_it(kind: str) -> None:
    (named,) = re.findall(rf"^{kind.upper()} := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    folders = [ROOT / folder for folder in named.split()]
    marked = [
        path for path in (ROOT / "tests").rglob("test_*.py") if f"pytest.mark.{kind}" in path.read_text()
    ]
    assert marked
    assert [path for path in marked if not any(path.is_relative_to(folder) for folder in folders)] == []
