"""Goals: a table of metric, goal, values before and after, and what is said."""

import math
from typing import Any

import numpy as np
import pytest

from quantization_api.metrics import Goal, Metric
from quantizer.evaluation.goals import missed_goal, wanted
from quantizer.evaluation.intervals import Ratio
from quantizer.evaluation.measurement import Measurement

pytestmark = pytest.mark.unit


def metric(kind: str, goal_type: str | None, value: float = 0.0) -> Metric:
    # each type with every goal, also where the contract wants other fields: made without its checks
    goal = Goal.model_validate({"type": goal_type, "value": value}) if goal_type else None
    return Metric.model_construct(name="m", type=kind, data_config="d", goal=goal)  # type: ignore[arg-type]


MET: list[tuple[str, str | None, float, float | None, float]] = [
    ("perplexity", None, 0, None, math.nan),
    ("perplexity", "threshold", 7, 6, 7),
    ("accuracy", "threshold", 0.7, 0.8, 0.7),
    ("kl_divergence", "threshold", 0.1, None, 0.09),
    ("perplexity", "max-degradation", 0.5, 6, 6.5),
    ("perplexity", "max-degradation", 0.5, 6, 5),
    ("accuracy", "max-degradation", 0.25, 0.75, 0.5),
    ("perplexity", "percent-max-degradation", 10, 10, 11),
    ("accuracy", "percent-max-degradation", 50, 0.5, 0.25),
    ("perplexity", "percent-max-degradation", 0, 0, 0),
    ("size_on_disk", "min-improvement", 70, 100, 30),
    ("size_on_disk", "percent-min-improvement", 70, 100, 30),
    ("accuracy", "min-improvement", 0.25, 0.25, 0.5),
    ("throughput", "percent-min-improvement", 100, 10, 20),
    ("peak_memory", "percent-min-improvement", 50, 4e9, 2e9),
    ("latency", "threshold", 20, None, 20),
]
MISSED: list[tuple[str, str, float, float | None, float, str]] = [
    ("perplexity", "threshold", 7, 6, 7.001, "at most 7"),
    ("accuracy", "threshold", 0.7, 0.8, 0.69, "at least 0.7"),
    ("perplexity", "threshold", 7, 6, math.nan, "nan"),
    ("perplexity", "threshold", 7, 6, math.inf, "inf"),
    ("perplexity", "max-degradation", 0.5, 6, 6.51, "the goal is at most 0.5, missed by 0.01"),
    ("accuracy", "max-degradation", 0.25, 0.75, 0.25, "degradation of 0.5"),
    ("perplexity", "percent-max-degradation", 10, 10, 11.5, "the goal is at most 10 %, missed by 5 %"),
    ("perplexity", "percent-max-degradation", 10, 0, 0.001, "degradation of inf %"),
    ("perplexity", "percent-max-degradation", 10, None, 5, "cannot be judged"),
    ("perplexity", "max-degradation", 10, math.nan, 5, "cannot be judged"),
    ("size_on_disk", "min-improvement", 70, 100, 31, "improvement of 69; the goal is at least 70"),
    (
        "size_on_disk",
        "percent-min-improvement",
        70,
        200,
        100,
        "improvement of 50 %; the goal is at least 70 %",
    ),
    ("throughput", "percent-min-improvement", 100, 10, 15, "improvement of 50 %"),
    ("latency", "min-improvement", 0.1, 1.0, 1.5, "improvement of -0.5"),
]


@pytest.mark.parametrize("case", MET, ids=str)
def test_a_goal_is_met(case: tuple[Any, ...]) -> None:
    kind, goal, value, before, after = case
    assert missed_goal(metric(kind, goal, value), Measurement(before, after)) is None


@pytest.mark.parametrize("case", MISSED, ids=str)
def test_a_missed_goal_says_by_how_much(case: tuple[Any, ...]) -> None:
    kind, goal, value, before, after, words = case
    miss = missed_goal(metric(kind, goal, value), Measurement(before, after))
    assert miss is not None
    assert words in miss.said
    assert not miss.narrowly


@pytest.mark.parametrize(
    ("kind", "goal_type", "value", "said"),
    [
        ("perplexity", None, 0, ""),
        ("kl_divergence", "threshold", 0.1, "at most 0.1"),
        ("accuracy", "threshold", 0.7, "at least 0.7"),
        ("perplexity", "max-degradation", 0.5, "at most 0.5 worse"),
        ("perplexity", "percent-max-degradation", 10, "at most 10 % worse"),
        ("size_on_disk", "min-improvement", 70, "at least 70 better"),
        ("size_on_disk", "percent-min-improvement", 70, "at least 70 % better"),
    ],
)
def test_a_goal_is_told_in_words(kind: str, goal_type: str | None, value: float, said: str) -> None:
    assert wanted(metric(kind, goal_type, value)) == said


def losses(*, apart: float, sequences: int = 40) -> Measurement:
    """Perplexities of two models that find the same sequences hard; the second is worse by `apart` nats a token."""
    hard = np.random.default_rng(0).normal(2.0, 0.2, sequences)
    ones = np.ones(sequences)
    return Measurement.of(Ratio(hard, ones, np.exp), Ratio(hard + apart, ones, np.exp))


def test_a_threshold_must_be_met_by_the_worse_end_of_the_interval() -> None:
    found = losses(apart=0.0)
    assert found.interval is not None
    between = (found.after + found.interval.high) / 2
    miss = missed_goal(metric("perplexity", "threshold", between), found)
    assert miss is not None
    assert miss.narrowly
    low, high = found.interval.low, found.interval.high
    assert f"(95 % interval: {low:.4g} to {high:.4g}); the goal is at most {between:g}" in miss.said
    assert f"misses it by {high - between:.3g}" in miss.said
    assert "more sequences would settle it" in miss.said
    assert missed_goal(metric("perplexity", "threshold", high * 1.001), found) is None


def test_a_value_that_misses_is_no_narrow_miss_and_says_by_how_much() -> None:
    found = losses(apart=0.0)
    miss = missed_goal(metric("perplexity", "threshold", found.after - 0.5), found)
    assert miss is not None
    assert not miss.narrowly
    assert miss.said.endswith("missed by 0.5")


def test_a_change_is_judged_with_the_paired_interval_which_is_narrower_than_that_of_the_value() -> None:
    found = losses(
        apart=0.05
    )  # 5.13 % worse on every sequence: the change is known exactly, the value is not
    assert found.interval is not None
    assert found.interval.high - found.interval.low > 0.5
    assert missed_goal(metric("perplexity", "percent-max-degradation", 5.2), found) is None
    miss = missed_goal(metric("perplexity", "percent-max-degradation", 5), found)
    assert miss is not None
    assert "a degradation of 5.127 % (95 % interval: 5.127 to 5.127 %); the goal is at most 5 %" in miss.said
    assert miss.said.endswith("missed by 0.127 %")


def test_one_sequence_has_no_interval_and_a_miss_says_so() -> None:
    found = losses(apart=0.05, sequences=1)
    assert found.interval is None
    assert missed_goal(metric("perplexity", "percent-max-degradation", 5.2), found) is None
    miss = missed_goal(metric("perplexity", "percent-max-degradation", 5), found)
    assert miss is not None
    assert "one sequence only, so without an interval" in miss.said


def test_a_higher_agreement_is_better_and_its_lower_end_is_judged() -> None:
    agreed = np.random.default_rng(1).integers(80, 100, 50).astype(np.float64)
    found = Measurement.of(Ratio(np.full(50, 100.0), np.full(50, 100.0)), Ratio(agreed, np.full(50, 100.0)))
    assert found.interval is not None
    below, between = found.interval.low - 0.001, (found.interval.low + found.after) / 2
    assert missed_goal(metric("top1_agreement", "threshold", below), found) is None
    miss = missed_goal(metric("top1_agreement", "threshold", between), found)
    assert miss is not None
    assert miss.narrowly
