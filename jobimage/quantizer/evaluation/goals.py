"""Whether a metric meets its goal: Olive's five goal types, judged with the confidence interval, as a pure function.

A goal is met when the worse end of the 95 % interval meets it: of the value for a threshold, else of the change from
the input model, for which both are measured on the same text and resampled together.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from quantization_api.metrics import Goal, Metric
from quantizer.evaluation.intervals import Interval, interval
from quantizer.evaluation.measurement import Measurement

UNITS: dict[str, Literal["", " %"]] = {"percent-min-improvement": " %", "percent-max-degradation": " %"}


@dataclass(frozen=True)
class Miss:
    """A goal that is missed."""

    metric: Metric
    said: str
    """A sentence without a full stop: value, interval, goal, and by how much it is missed."""
    narrowly: bool = False
    """The value meets the goal, only its interval does not."""


def improvement(metric: Metric, before: Any, after: Any) -> Any:
    """By how much the result is better than the input model, in units of the metric; negative: worse."""
    return before - after if metric.lower_is_better else after - before


def wanted(metric: Metric) -> str:
    """The goal in words, such as "at most 10 % worse"; "" without one."""
    goal = metric.goal
    if goal is None:
        return ""
    if goal.type == "threshold":
        return _bound(metric, goal)
    unit = UNITS.get(goal.type, "")
    if goal.type.endswith("min-improvement"):
        return f"at least {goal.value:g}{unit} better"
    return f"at most {goal.value:g}{unit} worse"


def missed_goal(metric: Metric, measured: Measurement) -> Miss | None:
    """How the goal is missed, or None when it is met (or there is none).

    Its value is in units of the metric, or in percent of the input model's. A value that is not finite misses every
    goal. Percentages of an input value of 0 are infinite, with the sign of the change.
    """
    goal, before, after = metric.goal, measured.before, measured.after
    if goal is None:
        return None
    if not math.isfinite(after):
        return Miss(metric, f"{metric.name} is {after}")
    if goal.type == "threshold":
        # of the distance to the threshold, the change is the value itself
        return _judge(metric, goal, measured, f"{metric.name} is {after:g}", measured.interval)
    if before is None or not math.isfinite(before):
        return Miss(
            metric, f"{metric.name} of the input model is {before}, so its goal {goal.type} cannot be judged"
        )
    better = goal.type.endswith("min-improvement")
    sign, unit = (1 if better else -1), UNITS.get(goal.type, "")
    change = sign * float(_gain(metric, goal, before, after))
    said = (
        f"{metric.name} went from {before:g} to {after:g}, "
        f"{'an improvement' if better else 'a degradation'} of {change:.4g}{unit}"
    )
    return _judge(metric, goal, measured, said, interval(_resampled_gain(metric, goal, measured, sign)))


def _judge(
    metric: Metric, goal: Goal, measured: Measurement, said: str, shown: Interval | None
) -> Miss | None:
    """Args: said, shown: what was found, as a sentence, and its interval."""
    unit = UNITS.get(goal.type, "")
    margin = float(_margin(metric, goal, measured.before, measured.after))
    worse = margin
    if measured.resampled_after is not None:
        found = interval(_margin(metric, goal, measured.resampled_before, measured.resampled_after))
        worse = found.low if found else margin
    if min(margin, worse) >= 0:
        return None
    if shown:
        said += f" (95 % interval: {shown.low:.4g} to {shown.high:.4g}{unit})"
    elif metric.sampled:
        said += f" (one {metric.drawn} only, so without an interval)"
    said += f"; the goal is {_bound(metric, goal)}{unit}"
    if margin < 0:
        return Miss(metric, f"{said}, missed by {-margin:.3g}{unit}")
    return Miss(
        metric,
        f"{said}: the value meets it, the worse end of the interval misses it by {-worse:.3g}{unit}; "
        f"more {metric.drawn}s would settle it",
        narrowly=True,
    )


def _margin(metric: Metric, goal: Goal, before: Any, after: Any) -> Any:
    """By how much the goal is met, in its unit; of numbers, or of resampled ones together."""
    if goal.type == "threshold":
        return improvement(metric, goal.value, after)
    gain = _gain(metric, goal, before, after)
    return gain - goal.value if goal.type.endswith("min-improvement") else gain + goal.value


def _gain(metric: Metric, goal: Goal, before: Any, after: Any) -> Any:
    """By how much the result is better, in the goal's unit."""
    gain = improvement(metric, before, after)
    if not goal.type.startswith("percent"):
        return gain
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 100 * np.divide(gain, np.abs(before))
    return np.where(gain == 0, 0.0, share)


def _resampled_gain(metric: Metric, goal: Goal, measured: Measurement, sign: int) -> Any:
    if measured.resampled_after is None:
        return None
    return sign * _gain(metric, goal, measured.resampled_before, measured.resampled_after)


def _bound(metric: Metric, goal: Goal) -> str:
    """The number that must be reached, in words."""
    most = metric.lower_is_better if goal.type == "threshold" else goal.type.endswith("max-degradation")
    return f"{'at most' if most else 'at least'} {goal.value:g}"
