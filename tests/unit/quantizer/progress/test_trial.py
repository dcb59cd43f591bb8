"""The progress of a search: its points done, the share of the one that is computed, and what all of them moved."""

import pytest

from quantization_api.status import Trials
from quantizer.progress.lines import Line
from quantizer.progress.tracker import PlannedStage, Tracker
from quantizer.progress.trial import TrialTracker

pytestmark = pytest.mark.unit


def test_a_point_moves_the_search_by_its_share() -> None:
    search = Tracker()
    search.plan([PlannedStage("search", 1.0)])
    with search.stage("search"):
        search.searched(1, 4, "q.bits=4: ppl 9")
        point = TrialTracker(search, done=1, total=4)
        point.plan([PlannedStage("quantize", 1.0)])
        with point.stage("quantize"):
            point.layers(3, 6)
            point.advance(3, 6)
            now = search.snapshot()
            assert (now.percent, now.stage, now.layer, now.layers) == (37, "search", 3, 6)
            assert now.search == Trials(done=1, total=4, best="q.bits=4: ppl 9")


def test_the_lines_of_a_point_do_not_call_its_percentage_one_of_the_run() -> None:
    lines: list[Line] = []
    point = TrialTracker(Tracker(say=lines.append), done=1, total=4)
    point.plan([PlannedStage("quantize", 1.0)])
    with point.stage("quantize"):
        point.layers(3, 6)
        point.advance(3, 6)
        point.layer_done()
    assert lines[-1].text.partition(", about")[0].endswith("; 50 % of the trial")


def test_what_points_read_and_write_is_counted_by_the_search() -> None:
    search = Tracker()
    for number in range(2):
        point = TrialTracker(search, done=number, total=2)
        point.count_bytes("written artifact", 10)
        point.count_tokens("evaluate", 7)
    assert search.bytes() == {"written artifact": 20}
    assert search.tokens() == {"evaluate": 14}


def test_what_holds_for_all_points_is_said_once() -> None:
    lines: list[Line] = []
    search = Tracker(say=lines.append)
    for number in range(2):
        TrialTracker(search, done=number, total=2).notice("vLLM refuses the result.")
    assert [line.text for line in lines] == ["vLLM refuses the result."]
    assert search.snapshot().notice == "vLLM refuses the result."
