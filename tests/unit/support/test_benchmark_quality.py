"""Quality against time: what is kept from run to run, compared with the best peer, and drawn."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.benchmarks.quantization import trade, trade_picture
from tests.benchmarks.quantization.__main__ import keep_quality, options
from tests.benchmarks.quantization.cases import PLAIN
from tests.benchmarks.quantization.judge import Verdict
from tests.benchmarks.quantization.process import Outcome
from tests.benchmarks.quantization.table import Row, make_row
from tests.benchmarks.quantization.trade import Point

pytestmark = pytest.mark.unit

FACTS: dict[str, object] = {"model": "stories", "grid": "4 bits, groups of 32, symmetric"}
OURS = Point("A", "gptq", "native-best", 0.05, 60.0, 1)
PEER = Point("A", "gptq", "auto-round", 0.04, 180.0, 1)
WORSE = Point("A", "gptq", "auto-gptq", 0.09, 20.0, 1)
ROUNDED = Point("A", "gptq", PLAIN, 0.2, 0.0, 0)


def row(engine: str, kl: float, cpu: float) -> Row:
    """Of one run; without time where there is none."""
    runs = [Outcome({"quantize": cpu}, {"quantize": cpu}, cpu, 1, 0, "1.0")] if cpu else []
    return make_row(engine, "gptq", runs, runs, Verdict(7.0, kl, 1.0), 0.0, 1.0)


def test_a_row_without_quality_or_time_is_no_point_but_plain_rounding_is() -> None:
    rows = [
        row("native", 0.07, 5.0),
        replace(row("autoawq", 0.1, 2.0), verdict=Verdict()),
        row("auto-gptq", 0.1, 0),
    ]
    found = trade.points("A", [*rows, row(PLAIN, 0.2, 0)])
    assert [(point.engine, point.cpu_seconds) for point in found] == [("native", 5.0), (PLAIN, 0.0)]


def test_a_later_run_replaces_its_own_engines_on_its_own_grid() -> None:
    other, again = replace(OURS, cell="B"), replace(OURS, kl_divergence=0.03)
    assert trade.merged([OURS, PEER, other], [again]) == [again, PEER, other]


def test_points_are_kept_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    assert trade.read(file) == []
    file.write_text(trade.document([OURS, PEER]))
    assert trade.read(file) == [OURS, PEER]


def test_native_is_compared_with_the_peer_of_the_best_quality() -> None:
    lines = trade.markdown(trade.merged([], [OURS, PEER, WORSE, ROUNDED])).splitlines()
    assert lines[0] == "**GPTQ, A**"
    assert lines[4:] == [
        "| RTN | 0.2000 | – | – | – | – |",
        "| auto-gptq | 0.0900 | 20.0 | – | – | 1 |",
        "| native-best | 0.0500 | 60.0 | 1.25 x | 0.33 x | 1 |",
        "| auto-round | 0.0400 | 180.0 | – | – | 1 |",
    ]


def test_without_a_peer_nothing_is_compared() -> None:
    assert "| native-best | 0.0500 | 60.0 | – | – | 1 |" in trade.markdown([OURS])


def test_the_picture_has_a_panel_for_each_grid(tmp_path: Path) -> None:
    cells = 3
    kept = [
        replace(point, cell=f"grid {number}") for number in range(cells) for point in (ROUNDED, OURS, PEER)
    ]
    trade_picture.draw(kept, tmp_path / "quality")
    drawn = (tmp_path / "quality.svg").read_text()
    assert [f"GPTQ, grid {number}" in drawn for number in range(cells)] == [True] * cells
    assert drawn.count("native-best") == cells
    assert (tmp_path / "quality.png").exists()


def test_grids_of_separate_runs_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[int]()
    monkeypatch.setattr(trade_picture, "draw", lambda kept, _: drawn.append(len(kept)))
    said = options(["--output", str(tmp_path)])
    keep_quality(said, FACTS, [row("native", 0.07, 5.0)])
    keep_quality(said, FACTS | {"grid": "3 bits"}, [row("native", 0.3, 5.0)])
    text = (tmp_path / "quality.md").read_text()
    assert text.index("4 bits, groups of 32, symmetric") < text.index("3 bits")
    assert drawn == [1, 2]


def test_random_weights_and_runs_that_all_failed_keep_nothing(tmp_path: Path) -> None:
    keep_quality(
        options(["--output", str(tmp_path), "--shape", "llama-3-8b"]), FACTS, [row("native", 0.07, 5.0)]
    )
    keep_quality(options(["--output", str(tmp_path)]), FACTS, [row("native", 0.07, 0)])
    assert not list(tmp_path.iterdir())
