"""The tuning guide: its tables are what its searches found, and its advice names only what was measured."""

import json
import re
from pathlib import Path

import pytest
from tests.benchmarks.tuning_guide.drawing import draw, series
from tests.benchmarks.tuning_guide.models import STORIES, TEXTS
from tests.benchmarks.tuning_guide.page import BEGIN, END, HEAD, Table, joined, read, with_tables
from tests.benchmarks.tuning_guide.questions import QUESTIONS, Question, fitting_groups, manifest
from tests.benchmarks.tuning_guide.table import Described, setting, settings_of, tables

from quantization_api.manifest import TrialRecord
from quantization_api.spec import QuantizationJobSpec
from quantization_api.status import MetricResult
from quantizer.search.space import Space

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")
ADVICE = PAGE[PAGE.index("## Advice") : PAGE.index(BEGIN)]
FIGURES = PAGE[PAGE.index(BEGIN) : PAGE.index(END)]
CONFIG = json.loads((STORIES / "config.json").read_text())
NUMBER = r"\d+\.\d*(e-\d+)?"
FIGURE = re.compile(rf"{NUMBER}( \({NUMBER} to {NUMBER}\))?")
BITS, METHOD = QUESTIONS[:2]


def trial(state: str = "Finished", /, **parameters: int | str) -> TrialRecord:
    names = {"passes": "passes", "bits": "gptq.bits", "group_size": "gptq.group_size"}
    figures = {"kl_divergence": 0.0123, "perplexity": 4.5, "top1_agreement": 0.95}
    metrics = [
        MetricResult(name=name, input=4.4, output=value, low=value - 0.001, high=value + 0.001)
        for name, value in figures.items()
    ]
    return TrialRecord(
        number=0,
        parameters={names[name]: value for name, value in parameters.items()},
        state=state,
        metrics=metrics if state == "Finished" else [],
        size_bytes=12_300_000 if state == "Finished" else None,
        bits_per_weight=4.5,
        said="" if state == "Finished" else "groups of 7 do not fit",
    )


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_every_question_is_a_manifest_without_a_point_that_is_refused(question: Question) -> None:
    document = manifest(question, STORIES, CONFIG, TEXTS, Path("/results"))
    workflow = QuantizationJobSpec.model_validate(document["spec"]).workflow
    space = Space.of(workflow)
    points = [space.point(space.parameters(index)) for index in range(space.size)]
    assert points
    assert all(point.workflow for point in points)


def test_the_same_point_of_two_questions_is_one_workflow() -> None:
    made = [
        manifest(question, STORIES, CONFIG, TEXTS, Path("/results"))["spec"] for question in (BITS, METHOD)
    ]
    bits, method = (Space.of(QuantizationJobSpec.model_validate(spec).workflow) for spec in made)
    one = bits.point({"gptq.bits": 3, "gptq.group_size": 32}).workflow
    other = method.point({"passes": "gptq", "gptq.bits": 3}).workflow
    assert one == other


def test_group_sizes_divide_the_inputs_of_every_linear() -> None:
    assert fitting_groups(CONFIG) == [32, 96, -1]
    assert fitting_groups(
        {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 8, "head_dim": 48}
    ) == [
        32,
        64,
        128,
        -1,
    ]


def test_a_setting_is_written_as_in_a_manifest() -> None:
    assert setting(BITS, trial(bits=3, group_size=-1)) == "`bits: 3`, `group_size: -1`"
    assert setting(METHOD, trial(passes="quarot+gptq", bits=4)) == "`QuaRot`, `GptqQuantizer`, `bits: 4`"


EMPTY = f"before\n{BEGIN}\n{END}\nafter\n"


def described(*names: str) -> list[Described]:
    return [Described(name, "Llama", 15_000_000, 4.4, "as published") for name in names]


def test_a_table_has_a_row_for_each_point_and_a_sentence_for_each_that_was_not_measured() -> None:
    found = {"bits": {"toy": [trial(bits=3, group_size=32), trial("Refused", bits=3, group_size=7)]}}
    made = with_tables(EMPTY, tables(found, described("toy")))
    assert [
        "toy",
        "`bits: 3`, `group_size: 32`",
        "0.0123 (0.0113 to 0.0133)",
        "4.50 (4.50 to 4.50)",
        "0.950 (0.949 to 0.951)",
        "4.50",
        "12.3",
    ] in rows(made)
    assert "Not measured: `bits: 3`, `group_size: 7` of toy. groups of 7 do not fit" in made


def test_only_what_lies_between_the_markers_changes() -> None:
    made = with_tables(EMPTY, tables({"bits": {"toy": [trial(bits=3, group_size=32)]}}, described("toy")))
    assert made.startswith(f"before\n{BEGIN}\n\n## The models\n")
    assert made.endswith(f"|\n\n{END}\nafter\n")
    for page in ("no markers", BEGIN):
        with pytest.raises(ValueError, match="needs the lines"):
            with_tables(page, {})


def test_the_page_is_written_as_it_was_read() -> None:
    assert with_tables(PAGE, read(PAGE)) == PAGE
    assert with_tables(EMPTY, read(EMPTY)) == EMPTY.replace(END, f"\n{END}")


def test_what_was_not_asked_again_stays() -> None:
    """Of the same table the other models, and the tables of other questions; what was asked is all new."""
    points = {
        size: [trial("Refused", bits=2, group_size=7), trial(bits=3, group_size=size)] for size in (32, 64)
    }
    page = tables(
        {"bits": {"a.1": points[32], "b": points[32]}, "options": {"b": [trial(passes="sym")]}},
        described("a.1", "b"),
    )
    page = {**page, "A question that is no more": Table([("a.1",)])}
    one = joined(page, tables({"bits": {"a.1": points[64][1:]}}, described("a.1")))
    assert list(one) == ["The models", "Bits and group size", "Options of GPTQ"]
    found = one["Bits and group size"]
    assert [(row[0], row[1]) for row in found.rows] == [
        ("a.1", "`bits: 3`, `group_size: 64`"),
        ("b", "`bits: 3`, `group_size: 32`"),
    ]
    assert found.notes == ["Not measured: `bits: 2`, `group_size: 7` of b. groups of 7 do not fit"]
    assert one["Options of GPTQ"] == page["Options of GPTQ"]
    more = joined(one, tables({"calibration": {"c": [trial(bits=3)]}}, described("c")))
    assert [row[0] for row in more["The models"].rows] == ["a.1", "b", "c"]
    assert read(with_tables(EMPTY, more)) == {
        title: Table([tuple(row) for row in table.rows], table.notes) for title, table in more.items()
    }


def test_the_picture_has_a_panel_for_each_model_and_a_line_for_each_group_size() -> None:
    points = [trial(bits=bits, group_size=size) for bits in (3, 4) for size in (32, -1)]
    made = tables({"bits": {"one": points, "two": points}}, described("one", "two"))
    drawn = draw(made).drawn
    for words in ("one", "two", "GPTQ, groups of 32", "GPTQ, one group per row"):
        assert words in drawn


def test_the_picture_has_the_points_of_the_page() -> None:
    shown = series(read(PAGE), "stories15m")
    assert {name: len(points) for name, points in shown.items()} == {
        "GPTQ, groups of 32": 4,
        "GPTQ, groups of 96": 4,
        "GPTQ, one group per row": 4,
        "AWQ, groups of 32": 1,
        "QuaRot, GPTQ, groups of 32": 2,
    }
    assert shown["GPTQ, groups of 96"][1] == (3.28, 0.569)


def test_the_tables_of_the_page_are_whole() -> None:
    for question in QUESTIONS:
        part = FIGURES.partition(f"## {question.title}\n")[2].partition("\n## ")[0]
        head, *found = rows(part)
        assert tuple(head) == HEAD, question.title
        assert found, question.title
        for row in found:
            assert len(row) == len(HEAD)
            assert all(FIGURE.fullmatch(cell) for cell in row[2:]), row


def test_the_advice_names_settings_that_were_measured() -> None:
    measured = {word for row in rows(FIGURES) for word in settings_of(row[1])}
    named = settings_of(ADVICE)
    assert len(named) > 5
    assert named <= measured
