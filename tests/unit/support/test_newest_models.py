"""The table of models with the newest transformers is compared with the page that is kept."""

from pathlib import Path

import pytest
from tests.support import model_table
from tests.support.newest_models import differences, faults, rows_of

pytestmark = pytest.mark.unit

PAGE = """# Models

| type | GPTQ |
|---|---|
| `a` | exact | exact, 1 and 1 |  | cannot be rotated |
| `b` |  |  |  | refused |
| `c` | exact |  |  |  |

## Images and sound beside the text

| `a` | exact |  |  |  |
"""


def test_what_is_not_as_on_the_page_is_told() -> None:
    now = PAGE.replace(
        "| `b` |  |  |  | refused |", "| `b` | exact |  |  |  |\n| `d` |  |  |  | refused |", 1
    )
    told = list(differences(rows_of(PAGE), rows_of(now.replace("| `c` | exact |  |  |  |\n", ""))))
    assert told == [
        "gone: | `c` | exact |  |  |  |",
        "was: | `b` |  |  |  | refused |\n now: | `b` | exact |  |  |  |",
        "new: | `d` |  |  |  | refused |",
    ]
    assert not list(differences(rows_of(PAGE), rows_of(PAGE)))


def test_types_that_were_exact_or_end_in_no_refusal_are_faults() -> None:
    before = rows_of(PAGE)
    assert not faults(before, before)
    first, second = PAGE.split("\n## ")
    worse = second.replace("| `a` | exact |  |  |  |", "| `a` | off by 2e-03 |  |  |  |")
    assert faults(before, rows_of(f"{first}\n## {worse}")) == ["a"]
    broken = first.replace("| refused |", "| no refusal: KeyError: 'x' |")
    assert faults(before, rows_of(f"{broken}\n## {second}")) == ["b"]


def test_a_type_that_ends_in_no_refusal_has_a_row_where_the_others_are_to_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(model_table, "walked_error", broken)
    (tmp_path / "one").mkdir()
    with pytest.raises(KeyError):
        model_table.row_of("llama", tmp_path / "one")
    row = model_table.row_in_any_case("llama", tmp_path)
    assert str(row) == "| `llama` |  |  |  | no refusal: KeyError: 'x' |"
