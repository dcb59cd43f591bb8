"""Goals: a table of metric, goal, values before and after, and what is said."""

import math
from typing import Any

import pytest

from quantization_api.metrics import Goal, Metric
from quantizer.evaluation.goals import missed_goal, wanted

pytestmark = pytest.mark.unit


def metric(kind: str, goal_type: str | None, value: float = 0.0) -> Metric:
    # accuracy is not available as a metric yet, so the model is made without its checks
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
]
MISSED: list[tuple[str, str, float, float | None, float, str]] = [
    ("perplexity", "threshold", 7, 6, 7.001, "at most 7"),
    ("accuracy", "threshold", 0.7, 0.8, 0.69, "at least 0.7"),
    ("perplexity", "threshold", 7, 6, math.nan, "nan"),
    ("perplexity", "threshold", 7, 6, math.inf, "inf"),
    ("perplexity", "max-degradation", 0.5, 6, 6.51, "degradation of 0.51; the goal is at most 0.5"),
    ("accuracy", "max-degradation", 0.25, 0.75, 0.25, "degradation of 0.5"),
    ("perplexity", "percent-max-degradation", 10, 10, 11.5, "degradation of 15 %; the goal is at most 10 %"),
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
    assert missed_goal(metric(kind, goal, value), before, after) is None


@pytest.mark.parametrize("case", MISSED, ids=str)
def test_a_missed_goal_says_by_how_much(case: tuple[Any, ...]) -> None:
    kind, goal, value, before, after, words = case
    sentence = missed_goal(metric(kind, goal, value), before, after)
    assert sentence is not None
    assert words in sentence


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
