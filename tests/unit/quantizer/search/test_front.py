"""The Pareto front and the choice, on figures whose answer can be seen."""

import pytest

from quantization_api.manifest import TrialRecord
from quantization_api.metrics import Goal, Metric
from quantizer.evaluation.measurement import Measurement
from quantizer.search.front import Candidate, best, front, ranked

pytestmark = pytest.mark.unit

SIZE = Metric(name="size", type="size_on_disk")
PERPLEXITY = Metric(name="ppl", type="perplexity", data_config="test")


def trial(number: int, perplexity: float | None, size: int, *, size_first: bool = False) -> Candidate:
    record = TrialRecord.model_validate(
        {
            "number": number,
            "parameters": {},
            "state": "Failed" if perplexity is None else "Finished",
            "size_bytes": size,
        }
    )
    if perplexity is None:
        return Candidate(record)
    sizes = [Measurement(400.0, float(size))] if size_first else []
    return Candidate(record, [*sizes, Measurement(10.0, perplexity)])


FIGURES = [(12.0, 50), (11.0, 80), (11.5, 90), (10.5, 100)]
TRIALS = [*(trial(number, *figures) for number, figures in enumerate(FIGURES)), trial(4, None, 10)]


def numbers(candidates: list[Candidate]) -> list[int]:
    return [one.record.number for one in candidates]


def test_the_front_is_what_no_other_point_is_better_than() -> None:
    assert numbers(front(TRIALS, [PERPLEXITY])) == [0, 1, 3]


def test_equal_points_are_on_the_front_together() -> None:
    assert numbers(front([trial(0, 11.0, 80), trial(1, 11.0, 80)], [PERPLEXITY])) == [0, 1]


def test_the_first_metric_decides() -> None:
    chosen = best(TRIALS, [PERPLEXITY])
    assert chosen is not None
    assert chosen.record.number == 3


def test_of_equal_figures_the_smaller_model_is_chosen() -> None:
    assert numbers(ranked([trial(0, 11.0, 90), trial(1, 11.0, 80)], [PERPLEXITY])) == [1, 0]


def test_of_equal_points_the_first_of_the_search_is_chosen_in_whatever_order_they_end() -> None:
    assert numbers(ranked([trial(1, 11.0, 80), trial(0, 11.0, 80)], [PERPLEXITY])) == [0, 1]


def test_size_first_chooses_the_smallest_model_that_meets_the_goals() -> None:
    goal = Goal(type="percent-max-degradation", value=12)
    metrics = [SIZE, PERPLEXITY.model_copy(update={"goal": goal})]
    sized = [trial(number, *figures, size_first=True) for number, figures in enumerate(FIGURES)]
    chosen = best(sized, metrics)
    assert chosen is not None
    assert chosen.record.number == 1
    assert numbers(ranked(sized, metrics)) == [1, 3, 0, 2]


def test_there_is_no_choice_where_no_point_meets_the_goals() -> None:
    metrics = [PERPLEXITY.model_copy(update={"goal": Goal(type="threshold", value=9)})]
    assert best(TRIALS, metrics) is None
    chosen = best(TRIALS, metrics, whatever_goals=True)
    assert chosen is not None
    assert chosen.record.number == 3
