"""The report of a search: which setting won and what it costs, at a glance; every point, and why some did not end."""

import random
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from tests.support.searched import mixed_linears, rotated_ranges, searched, trial_records
from tests.unit.quantizer.report.test_page import SVG, Outline
from tests.unit.quantizer.report.test_report import a_manifest

from quantization_api.manifest import Manifest, TrialRecord
from quantization_api.status import MetricResult
from quantizer.report.by_layer import bits_by_layer
from quantizer.report.document import report_files
from quantizer.report.gallery import for_the_card, pictures
from quantizer.report.lettering import COLOURS
from quantizer.report.measures import Measure
from quantizer.report.model_card import model_card
from quantizer.report.over_time import trials_over_time
from quantizer.report.points import Point, front, setting
from quantizer.report.svg import Picture
from quantizer.report.trade_off import Axis, trade_off

pytestmark = pytest.mark.unit

PNG_AT_MOST = 60_000


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """A search, with everything that there are pictures of."""
    changes = {"modules": mixed_linears(4), "ranges": rotated_ranges(4)}
    return searched(a_manifest()).model_copy(update=changes)


@pytest.fixture(scope="module")
def drawn(manifest: Manifest) -> list[Picture]:
    return pictures(manifest)


@pytest.fixture(scope="module")
def files(manifest: Manifest, drawn: list[Picture]) -> dict[str, bytes]:
    return report_files(manifest, drawn)


def words(html: str) -> str:
    """What a page says."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def texts(picture: Picture) -> list[str]:
    """The letters in a picture."""
    root = ET.fromstring(picture.file().decode())
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def points(figures: Sequence[tuple[float, float]], metric: str = "kl") -> list[Point]:
    """Points of size in MB and a metric."""
    return [
        Point(str(number), size * 1e6, {metric: MetricResult(name=metric, output=value)})
        for number, (size, value) in enumerate(figures)
    ]


def test_the_first_sentence_says_what_won_and_what_it_costs(files: dict[str, bytes]) -> None:
    page = files["report.html"].decode()
    first = page.split('<p class="verdict">')[1].split("</p>")[0]
    assert first == (
        "GPTQ, 4 bits, groups of 32, desc_act won: ppl +2.7 %, kl 0.02116, 1.39 times smaller; 24 points tried, 6 on "
        "the Pareto front."
    )


def test_the_front_stands_before_every_picture_with_the_chosen_point_in_it(files: dict[str, bytes]) -> None:
    page = files["report.html"].decode()
    table = page.split("<h2>Pareto front</h2>")[1].split("</table>")[0]
    assert page.index("<h2>Pareto front</h2>") < page.index("<svg")
    assert table.count("<tr>") == 1 + 6
    assert "<strong>4 bits, groups of 32, desc_act</strong><small>chosen</small>" in table
    assert "<td>21.9 MB</td>" in table
    assert "6.936<small>6.797 to 7.075</small>" in table


def test_all_points_are_there_with_their_end_and_its_reason(files: dict[str, bytes]) -> None:
    page = files["report.html"].decode()
    folded = page.split("<details>")[1].split("</details>")[0]
    assert "All 24 points: 22 finished, 1 failed, 1 refused" in folded
    assert folded.count('<th scope="row">') == 24
    assert "failed<small>model.layers.1.mlp.down_proj: the Hessian is not positive definite</small>" in folded
    assert "refused<small>desc_act with static_groups needs groups" in folded
    assert "worker-1" in folded


def test_what_a_trial_says_is_shown_and_does_nothing_else() -> None:
    bad = "<script>alert(1)</script>\x1b[31m"
    trial = TrialRecord(
        number=0, parameters={f"a.{bad}": bad}, state="Failed", said=bad, worker=bad, model=bad
    )
    found = searched(a_manifest())
    found = found.model_copy(update={"trials": [*found.trials, trial]})
    page = report_files(found, [])["report.html"].decode()
    assert "<script" not in page
    assert "\x1b" not in page


def test_every_picture_has_words_ids_of_its_own_and_colours_for_light_and_dark(
    files: dict[str, bytes], drawn: list[Picture]
) -> None:
    names = [picture.name for picture in drawn]
    assert names == [
        "ppl-against-size",
        "kl-against-size",
        "trials-over-time",
        "bits-by-layer",
        "error-by-layer",
        "ranges-by-layer",
        "time-by-stage",
    ]
    outline = Outline(files["report.html"].decode())
    assert not outline.open
    assert max(outline.ids.values()) == 1, outline.ids.most_common(3)
    assert len(outline.all("svg")) == len(names)
    for picture in drawn:
        assert picture.title
        assert picture.told.endswith(".")
        assert set(re.findall(r"#[0-9a-f]{6}", picture.drawn)) <= set(COLOURS), picture.name
        assert "currentColor" in picture.drawn
    assert not re.search(rb"<script|<link|<img|<iframe|@import|src=|url\((?!#)", files["report.html"])


def test_the_card_shows_small_pictures_that_are_there(
    manifest: Manifest, drawn: list[Picture], files: dict[str, bytes]
) -> None:
    card = model_card(manifest, "s3://artifacts/a", for_the_card(drawn))
    shown = re.findall(r"!\[(.+)\]\(report/(.+)\)", card)
    assert {name for _, name in shown} == {name for name in files if name.endswith(".png")}
    assert [name for _, name in shown] == [
        "ppl-against-size.png",
        "kl-against-size.png",
        "bits-by-layer.png",
        "error-by-layer.png",
    ]
    assert all(told.endswith(".") for told, _ in shown)
    for _, name in shown:
        data = files[name]
        assert data.startswith(b"\x89PNG")
        assert len(data) < PNG_AT_MOST, name
        assert not any(kind in data for kind in (b"tEXt", b"iTXt", b"tIME"))
        width, height = struct.unpack(">II", data[16:24])
        assert (width, height > 200) == (720, True)


def test_the_same_search_is_drawn_in_the_same_bytes(manifest: Manifest, files: dict[str, bytes]) -> None:
    assert report_files(manifest, pictures(manifest)) == files


def test_the_front_is_what_no_other_point_beats() -> None:
    source = random.Random(1)
    for _ in range(200):
        found = [(source.randrange(6), source.randrange(6)) for _ in range(source.randrange(1, 9))]
        best = front([(float(x), float(y)) for x, y in found])
        beaten = {
            at
            for at, (x, y) in enumerate(found)
            if any(a <= x and b <= y and (a, b) != (x, y) for a, b in found)
        }
        assert {found[at] for at in best} == {found[at] for at in range(len(found)) if at not in beaten}
        assert len({found[at] for at in best}) == len(best)


def test_the_front_follows_what_is_better() -> None:
    figures = [(1.0, 0.5), (2.0, 0.7), (3.0, 0.6)]
    accuracy = trade_off(points(figures, "acc"), Axis(), Axis(Measure("acc", "top1_agreement")))
    divergence = trade_off(points(figures), Axis(), Axis(Measure("kl", "kl_divergence")))
    assert accuracy is not None
    assert divergence is not None
    assert accuracy.told == (
        "On the Pareto front: 0: acc 0.5 at size 1.0 MB; 1: acc 0.7 at size 2.0 MB. 1 more point lies behind it."
    )
    assert divergence.told == "On the Pareto front: 0: kl 0.5 at size 1.0 MB. 2 more points lie behind it."


def test_quality_stands_against_speed_too_where_that_was_measured() -> None:
    figures = ((10.0, 7.0), (20.0, 8.0), (15.0, 9.0))
    shown = [
        Point(
            f"p{number}",
            None,
            {"tps": MetricResult(name="tps", output=fast), "ppl": MetricResult(name="ppl", output=good)},
        )
        for number, (fast, good) in enumerate(figures)
    ]
    speed, quality = Measure("tps", "throughput"), Measure("ppl", "perplexity")
    picture = trade_off(shown, Axis(speed), Axis(quality))
    assert picture is not None
    assert picture.name == "ppl-against-tps"
    assert (
        "p1: ppl 8.000 at tps 20.000 tokens/s; p0: ppl 7.000 at tps 10.000 tokens/s. 1 more" in picture.told
    )
    assert trade_off(shown, Axis(), Axis(quality)) is None, "no size is known"


def test_uniform_and_mixed_points_have_marks_of_their_own(drawn: list[Picture]) -> None:
    letters = texts(drawn[0])
    for name in ("the same bits everywhere", "mixed precision", "chosen", "Pareto front", "input model"):
        assert name in letters
    alone = trade_off(points([(1.0, 2.0), (2.0, 1.0)]), Axis(), Axis(Measure("kl", "kl_divergence")))
    assert alone is not None
    assert not {"mixed precision", "chosen"} & set(texts(alone))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"gptq.bits": 4, "gptq.group_size": -1, "gptq.sym": True}, "4 bits, one group a row, sym"),
        (
            {"awq.w_bit": 4, "awq.q_group_size": 128, "awq.zero_point": False},
            "4 bits, groups of 128, no zero_point",
        ),
        ({"passes": "rotate+gptq", "gptq.target_bits": "3.5"}, "rotate and gptq, 3.5 bits on average"),
        ({"a.bits": 4, "b.bits": 8}, "4 bits (a), 8 bits (b)"),
        (
            {"gptq.damp_percent": 0.01, "gptq.damp_auto_increment": None},
            "damp_percent 0.01, damp_auto_increment unset",
        ),
        ({"gptq.target_size": "4Gi", "gptq.desc_act": True}, "4Gi in all, desc_act"),
        ({}, "as written"),
    ],
)
def test_a_setting_in_words(parameters: dict[str, object], said: str) -> None:
    assert setting(parameters) == said


def test_bits_of_hundreds_of_layers_are_one_line_for_each_kind_and_the_head_a_bar() -> None:
    picture = bits_by_layer(mixed_linears(300), 4, 32)
    assert len(picture.drawn) < 80_000
    assert "lm_head: 8 bits, one group a row." in picture.told
    assert (
        "mlp.down_proj: 8 bits, groups of 32, in 2 of 300; 4 bits, groups of 32, in 298 of 300."
        in picture.told
    )
    few = bits_by_layer(mixed_linears(4), 4, 32)
    assert texts(few).count("8") >= 3


def test_a_model_of_one_kind_of_bits_has_no_picture_of_them() -> None:
    names = [picture.name for picture in pictures(a_manifest())]
    assert names == ["error-by-layer"]


def test_the_best_so_far_counts_what_has_finished_and_only_when_it_has() -> None:
    trials = [
        TrialRecord(
            number=number,
            parameters={},
            state=state,
            metrics=[MetricResult(name="ppl", output=value)],
            started=started,
            seconds=seconds,
            worker="w",
        )
        for number, (state, value, started, seconds) in enumerate(
            (
                ("Finished", 9.0, "2026-01-01T00:00:00Z", 10.0),
                ("Stopped", 1.0, "2026-01-01T00:00:10Z", 2.0),
                ("Finished", 8.0, "2026-01-01T01:00:20+01:00", 30.0),
                ("Finished", 2.0, "yesterday", 30.0),
            )
        )
    ]  # fmt: skip
    picture = trials_over_time(trials, Measure("ppl", "perplexity"))
    assert picture is not None
    assert (
        picture.told
        == "3 points in 50 seconds by one worker. The best ppl, 8.000, was found after 50 seconds."
    )
    assert trials_over_time([trials[3]], None) is None


@pytest.mark.parametrize(
    ("worker", "shown"),
    [
        ("8f0c7f0e-6c6e-4f5a-9a57-2f6b0e6c8d11/1", "worker 1"),
        ("local:host:4711:98765432", "...:4711:98765432"),
        ("laptop", "laptop"),
        (f"{100 * 'x'}/{100 * 'y'}", "...yyyyyyyyyyyyyy"),
    ],
)
def test_names_of_workers_leave_room_for_their_trials(worker: str, shown: str) -> None:
    trials = [one.model_copy(update={"worker": worker}) for one in trial_records()]
    picture = trials_over_time(trials, Measure("ppl", "perplexity"))
    assert picture is not None
    assert [tick.get_text() for tick in picture.figure.axes[0].get_yticklabels()] == [shown]


def test_ranges_are_told_before_and_after(drawn: list[Picture]) -> None:
    (picture,) = [one for one in drawn if one.name == "ranges-by-layer"]
    assert "Inputs before the rotation: 51 to 60. Inputs after the rotation: 6.5 to 6.5." in picture.told


def test_remarks_and_few_tokens_stand_in_the_report_as_in_the_card() -> None:
    found = a_manifest()
    source = found.input.model_copy(update={"remarks": ["adapter_model.safetensors was not taken"]})
    short = [one.model_copy(update={"tokens": 5}) for one in found.modules]
    found = found.model_copy(update={"input": source, "modules": short})
    said = words(report_files(found, [])["report.html"].decode())
    assert (
        "Remarks adapter_model.safetensors was not taken 3 of 3 linears read fewer than 2 calibration" in said
    )


def test_records_are_as_the_contract_wants_them() -> None:
    assert [record.number for record in trial_records()] == list(range(24))
