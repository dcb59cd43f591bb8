"""Whether a metric meets its goal: Olive's five goal types, as a pure function."""

import math
from typing import Literal

from quantization_api.metrics import Goal, Metric

LOWER_IS_BETTER = frozenset({"perplexity", "kl_divergence", "latency", "peak_memory", "size_on_disk"})
UNITS: dict[str, Literal["", " %"]] = {"percent-min-improvement": " %", "percent-max-degradation": " %"}


def improvement(metric_type: str, before: float, after: float) -> float:
    """By how much the result is better than the input model, in units of the metric; negative: worse."""
    return before - after if metric_type in LOWER_IS_BETTER else after - before


def wanted(metric: Metric) -> str:
    """The goal in words, such as "at most 10 % worse"; "" without one."""
    goal = metric.goal
    if goal is None:
        return ""
    if goal.type == "threshold":
        return f"{_bound(metric)} {goal.value:g}"
    unit = UNITS.get(goal.type, "")
    if goal.type.endswith("min-improvement"):
        return f"at least {goal.value:g}{unit} better"
    return f"at most {goal.value:g}{unit} worse"


def missed_goal(metric: Metric, before: float | None, after: float) -> str | None:
    """A sentence that says how the goal is missed, or None when it is met (or there is none).

    Args:
        metric: what was measured; its goal's value is in units of the metric, or in percent of `before`.
        before, after: of the input model and of the result. Goals other than threshold need `before`.

    A value that is not finite misses every goal. Percentages of an input value of 0 are infinite, with
    the sign of the change.
    """
    goal = metric.goal
    if goal is None:
        return None
    if not math.isfinite(after):
        return f"{metric.name} is {after}"
    if goal.type == "threshold":
        distance = improvement(metric.type, goal.value, after)
        return None if distance >= 0 else f"{metric.name} is {after:g}, the goal is {wanted(metric)}"
    if before is None or not math.isfinite(before):
        return f"{metric.name} of the input model is {before}, so its goal {goal.type} cannot be judged"
    gain = improvement(metric.type, before, after)
    if goal.type.startswith("percent"):
        gain = 100 * gain / abs(before) if before else (math.copysign(math.inf, gain) if gain else 0.0)
    return _judge(metric.name, goal, gain, before, after)


def _bound(metric: Metric) -> str:
    return "at most" if metric.type in LOWER_IS_BETTER else "at least"


def _judge(name: str, goal: Goal, gain: float, before: float, after: float) -> str | None:
    unit = UNITS.get(goal.type, "")
    change = f"{name} went from {before:g} to {after:g}"
    if goal.type.endswith("min-improvement"):
        if gain >= goal.value:
            return None
        return f"{change}, an improvement of {gain:.4g}{unit}; the goal is at least {goal.value:g}{unit}"
    if -gain <= goal.value:
        return None
    return f"{change}, a degradation of {-gain:.4g}{unit}; the goal is at most {goal.value:g}{unit}"
