"""docs/models.md is what the passes do today with every type that transformers has."""

from pathlib import Path

import pytest
import transformers
from tests.support.causal_types import TYPES, TYPES_BESIDE
from tests.support.choice import mostly_nightly
from tests.support.model_table import Row, row_of
from tests.support.reloaded import SAME, reloaded
from transformers import AutoModelForMultimodalLM

pytestmark = pytest.mark.unit

PAGE = Path("docs/models.md")
BESIDE_EVERY_TIME = ("gemma3", "llama4", "qwen3_vl", "fuyu", "blip", "phi4_multimodal")
EVERY_TIME = ("llama", "gemma", "falcon", "lfm2", "got_ocr2", "olmoe")


def rows(part: int = 0) -> dict[str, str]:
    """The rows of a part of the page by their type."""
    lines = PAGE.read_text().split("\n## ")[part].splitlines()
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def cells(row: str) -> list[str]:
    """Of a row: its type and what stands behind it."""
    return [cell.strip() for cell in row.split("|")[1:-1]]


def without_reloaded(row: str) -> str:
    """A row without what another test looks at."""
    name, gptq, _, awq, quarot, why = cells(row)
    return str(Row(name.strip("`"), gptq, awq, quarot, why.partition("8 bits: ")[0].removesuffix("; ")))


RELOADED = [name for name, row in rows().items() if cells(row)[2] == SAME]
"""Types of which an artifact is loaded again."""


def test_the_page_has_a_row_for_every_type() -> None:
    assert tuple(rows()) == TYPES
    assert tuple(rows(1)) == TYPES_BESIDE
    assert f"transformers {transformers.__version__} " in PAGE.read_text()


@pytest.mark.filterwarnings("ignore")  # classes of transformers warn of what they are given
@pytest.mark.parametrize("model_type", mostly_nightly(TYPES, EVERY_TIME))
def test_the_row_of_a_type_is_what_happens(model_type: str, tmp_path: Path) -> None:
    assert str(row_of(model_type, tmp_path)) == without_reloaded(rows()[model_type])


@pytest.mark.filterwarnings("ignore")  # likewise
@pytest.mark.parametrize("model_type", mostly_nightly(TYPES_BESIDE, BESIDE_EVERY_TIME))
def test_the_row_of_a_type_with_more_than_text_is_what_happens(model_type: str, tmp_path: Path) -> None:
    assert str(row_of(model_type, tmp_path, AutoModelForMultimodalLM)) == rows(1)[model_type]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # likewise
@pytest.mark.parametrize("model_type", RELOADED)
def test_eight_bits_of_a_type_are_in_transformers_what_they_are_here(model_type: str, tmp_path: Path) -> None:
    found = reloaded(model_type, tmp_path)
    assert found.right, found
