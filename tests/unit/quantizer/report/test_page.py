"""The report as people open it: the verdict first, on any screen, in any light, also read aloud, at any depth."""

import html
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.unit.quantizer.report.test_report import a_manifest

from quantization_api.manifest import LinearReport, Manifest
from quantization_api.status import MetricResult
from quantizer.report import gallery
from quantizer.report.document import report_files

pytestmark = pytest.mark.unit

SECONDS = {
    "check": 0.5,
    "quantize": 12.5,
    "evaluate": 4.0,
    "publish": 0.3,
    "quantize: write": 0.5,
    "quantize: read": 1.0,
    "quantize: solve": 3.0,
    "quantize: calibrate": 8.0,
}
VOID = {"meta", "br"}
SVG = "{http://www.w3.org/2000/svg}"


def files(manifest: Manifest) -> dict[str, bytes]:
    """The files of the report."""
    timed = manifest.model_copy(update={"seconds": SECONDS})
    return report_files(timed, gallery.pictures(timed))


def page(manifest: Manifest) -> str:
    """report.html."""
    return files(manifest)["report.html"].decode()


def pictures(manifest: Manifest) -> dict[str, ET.Element]:
    """The pictures as files."""
    return {
        name: ET.fromstring(data.decode()) for name, data in files(manifest).items() if name.endswith(".svg")
    }


class Outline(HTMLParser):
    """Ids, attributes by tag, and whether elements end in the order in which they began."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an element."""
        self.found.append((tag, dict(attrs)))
        self.ids.update(value for key, value in attrs if key == "id" and value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an element without content."""
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Closes the last element."""
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of that name."""
        return [attributes for name, attributes in self.found if name == tag]


def linears(*names: str, **changes: Any) -> list[LinearReport]:
    """Linears of these names."""
    module = a_manifest().modules[0]
    return [module.model_copy(update={"name": name, **changes}) for name in names]


def with_modules(modules: list[LinearReport]) -> Manifest:
    """The manifest with these linears."""
    return a_manifest().model_copy(update={"modules": modules})


def test_verdict_goals_and_change_stand_before_everything_else() -> None:
    text = re.sub(r"<[^>]+>", " ", page(a_manifest()).split("<svg")[0].split("<body>")[1])
    for words in (
        "The goal is met; ppl +6.1 %; 40.0 MB before, 12.5 MB after (3.20 times smaller)",
        "goal: at most 10 % worse",
        "+6.1 %",
        "7.410",
    ):
        assert words in text
    assert "rtn_" not in text, "RTN is a column"


@pytest.mark.parametrize(("goals", "said"), [(0, "No goals were set"), (2, "Both goals"), (3, "All 3 goals")])
def test_the_verdict_counts_goals(goals: int, said: str) -> None:
    manifest = a_manifest()
    goal = {"goal": {"type": "threshold", "value": 8}}
    metrics = [
        {
            "name": f"m{number}",
            "type": "perplexity",
            "data_config": "held_out",
            **(goal if number < goals else {}),
        }
        for number in range(3)
    ]
    results = [MetricResult(name=f"m{number}", input=6.0, output=7.0) for number in range(3)]
    workflow = {**manifest.workflow, "evaluators": [{"name": "quality", "metrics": metrics}]}
    assert said in page(manifest.model_copy(update={"workflow": workflow, "metrics": results}))


def test_metrics_are_told_from_those_of_rtn_by_the_workflow_not_by_their_names() -> None:
    manifest = a_manifest()
    metrics = [
        {"name": name, "type": "perplexity", "data_config": "held_out"}
        for name in ("rtn_ppl", "ppl", 63 * "p")
    ]
    names = ("rtn_ppl", "ppl", 63 * "p", "rtn_rtn_ppl", "rtn_ppl", "rtn_" + 59 * "p")
    results = [MetricResult(name=name, input=6.0, output=7.0 + place) for place, name in enumerate(names)]
    workflow = {**manifest.workflow, "evaluators": [{"name": "quality", "metrics": metrics}]}
    shown = page(manifest.model_copy(update={"workflow": workflow, "metrics": results}))
    for name, ours, rtn in (("rtn_ppl", 7, 10), ("ppl", 8, 11), (63 * "p", 9, 12)):
        row = shown.split(f'<th scope="row">{name}</th>')[1].split("</tr>")[0]
        assert f"<td>{ours}.000</td>" in row
        assert row.endswith(f"<td>{rtn}.000</td>")


def test_an_artifact_of_a_release_with_other_rules_is_shown_without_goals() -> None:
    manifest = a_manifest()
    shown = page(manifest.model_copy(update={"workflow": {**manifest.workflow, "search_strategy": "grid"}}))
    assert '<th scope="row">ppl</th>' in shown
    assert "rtn_ppl" not in shown


def test_the_page_fits_a_telephone_and_the_dark() -> None:
    text = page(a_manifest())
    outline = Outline(text)
    assert not outline.open
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in outline.all("meta")
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text
    assert text.count("<table>") == text.count('<div class="wide" role="region" tabindex="0" aria-label=')


def test_pictures_can_be_read_aloud_and_their_text_is_text() -> None:
    outline = Outline(page(a_manifest()))
    assert max(outline.ids.values()) == 1, outline.ids.most_common(3)
    drawn = outline.all("svg")
    assert len(drawn) == 2
    for attributes in drawn:
        assert attributes["role"] == "img"
        assert str(attributes["aria-labelledby"]) in outline.ids
        assert str(attributes["aria-describedby"]) in outline.ids
    for name, root in pictures(a_manifest()).items():
        title, told = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        assert title is not None
        assert title.text
        assert told is not None
        assert str(told.text).endswith(".")
        texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
        assert {"error-by-layer.svg": "decoder layer", "time-by-stage.svg": "seconds"}[name] in texts


def test_a_picture_tells_in_words_what_it_shows() -> None:
    told = pictures(a_manifest())["error-by-layer.svg"].find(f"{SVG}desc")
    assert told is not None
    assert told.text == "self_attn.q_proj: 0.004 to 0.004, median 0.004, RTN 0.008."


def test_ink_follows_the_text_around_it_and_lines_can_be_told_from_both_backgrounds() -> None:
    from quantizer.report.lettering import COLOURS

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, data in files(a_manifest()).items():
        if name.endswith(".svg"):
            drawn = re.sub("<style>.*?</style>", "", data.decode())
            assert set(re.findall(r"#[0-9a-f]{6}", drawn)) <= set(COLOURS)
            assert "currentColor" in drawn
    dark, light = luminance("#181818") + 0.05, 1.05
    for colour in COLOURS:
        own = luminance(colour) + 0.05
        assert min(light / own, own / dark) >= 3, colour


def test_stages_stand_in_order_each_before_its_parts() -> None:
    root = pictures(a_manifest())["time-by-stage.svg"]
    told = root.find(f"{SVG}desc")
    assert told is not None
    assert told.text == (
        "check 0.5 s, quantize 12.5 s, quantize: read 1.0 s, quantize: calibrate 8.0 s, quantize: solve 3.0 s, "
        "quantize: write 0.5 s, evaluate 4.0 s, publish 0.3 s."
    )


def test_hundreds_of_layers_are_one_picture_and_a_row_for_each_kind() -> None:
    names = [
        f"model.layers.{layer}.mlp.{kind}_proj" for layer in range(300) for kind in ("gate", "up", "down")
    ]
    modules = linears(*names)
    modules[4] = modules[4].model_copy(update={"error": 0.5})
    text = page(with_modules(modules))
    before = text.split("<details>")[0]
    assert before.count('<th scope="row">mlp.') == 3
    assert (
        '<th scope="row">mlp.up_proj</th><td>300</td><td>0.00400</td><td>0.00800</td><td>0.50</td>' in before
    )
    assert "0.500<small>model.layers.1.mlp.up_proj</small>" in before
    assert text.count("<details>") == 3
    assert text.count('<th scope="row">model.layers.') == 900, "none is left out"
    assert text.count("<svg") == 2
    assert len(re.findall("<use ", text)) < 100, "no marker for each of hundreds of layers"


def test_experts_of_all_layers_are_one_kind() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{expert}.w1" for layer in range(3) for expert in range(8)]
    text = page(with_modules(linears(*names)))
    assert '<th scope="row">mlp.experts.*.w1</th><td>24</td>' in text
    assert text.count("<details>") == 1


def test_kinds_that_the_picture_leaves_out_are_counted() -> None:
    names = [f"model.layers.0.linear{number}" for number in range(17)]
    names = [name.replace("linear", "linear_") for name in names]
    text = page(with_modules(linears(*names)))
    assert "(16 of 17 kinds)" in text
    assert text.count("<details>") == 17


def test_a_pass_that_rounds_to_nearest_is_not_shown_as_no_better_than_itself() -> None:
    text = page(with_modules(linears("model.layers.0.q", error=0.01, error_rtn=0.01)))
    assert "RTN" not in text.split("<h2>Linears</h2>")[1]
    assert "dotted" not in text


@pytest.mark.parametrize("kind", ["_hidden", "$x$", "a$b", "\u5c42", "0"])
def test_a_kind_of_any_name_stands_in_the_picture(kind: str) -> None:
    root = pictures(with_modules(linears(f"layers.0.{kind}")))["error-by-layer.svg"]
    texts = [" ".join("".join(text.itertext()).split()) for text in root.iter(f"{SVG}text")]
    assert {"0": "*", "\u5c42": "?"}.get(kind, kind) in texts


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"type": "GptqQuantizer", "data_config": "train"},
            "changes of a linear's outputs on the calibration text",
        ),
        ({"type": "QuaRot", "w_rtn": True, "w_bits": 4}, "changes of a linear's weights"),
    ],
)
def test_an_error_is_not_said_to_be_of_a_text_that_the_pass_has_not_read(
    parameters: dict[str, Any], said: str
) -> None:
    manifest = a_manifest()
    shown = page(manifest.model_copy(update={"workflow": {**manifest.workflow, "passes": [parameters]}}))
    assert html.escape(said) in shown


def test_where_no_linear_was_rounded_there_is_no_empty_picture() -> None:
    made = files(with_modules([]))
    assert "error-by-layer.svg" not in made
    assert "<h2>Linears</h2>" not in made["report.html"].decode()
