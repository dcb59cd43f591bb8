"""The evaluator that a run config chooses, with the metrics that are available here."""

import math
from typing import Any

from quantization_api.metrics import KINDS, Metric
from quantizer.cli.olive.fields import EVALUATOR, LM_EVALUATOR, METRIC, SUB_TYPE
from quantizer.cli.olive.notes import Notes, Object, not_a_field
from quantizer.cli.olive.parts import checked

MTEB = f"tasks of MTEB are not available; write metrics of type {', '.join(KINDS)}"
NO_FILES = (
    "tasks of lm-eval are read from files, not downloaded; add tasks_from, the folder of their YAML and "
    "data files"
)
OF_TASKS = ("name", "tasks", "tasks_from", "num_fewshot", "limit")
TIMED = ("latency", "throughput")
MEDIAN = "p50"
IN_PERCENT = ("percent-min-improvement", "percent-max-degradation")
METRIC_FIELDS = (*Metric.model_fields, "sub_types")


def evaluator(given: Any, chosen: Any, notes: Notes) -> Object | None:
    """The evaluator that is chosen; of the others it is noted that nothing uses them.

    Args:
        given: `evaluators`. chosen: `evaluator`, one of their names.
    """
    if isinstance(chosen, dict):
        notes.refuse("evaluator", "define it in evaluators and give its name here")
        chosen = None
    found = None
    names = _names(given)
    for item, path in notes.named(given, "evaluators"):
        if chosen is not None and item.get("name") == chosen:
            found = _evaluator(item, path, notes)
        else:
            notes.leave_out(path, "evaluator does not name it")
    if chosen is not None and chosen not in names:
        notes.refuse("evaluator", "it names an evaluator that is not in evaluators")
    return found


def _names(given: Any) -> list[Any]:
    if isinstance(given, dict):
        return list(given)
    return [item.get("name") for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _evaluator(item: Object, path: str, notes: Notes) -> Object | None:
    kind = str(item.get("type", "")).lower()
    if kind == "mtebevaluator":
        notes.refuse(path, MTEB)
        return None
    if kind == "lmevaluator" or "tasks" in item:
        return _of_tasks(item, path, notes)
    known = ("name", "metrics")
    item = notes.sifted(EVALUATOR, item, f"{path}.", known, not_a_field("an evaluator", known))
    metrics = item.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        notes.refuse(f"{path}.metrics", "must be a list of metrics")
        return None
    ranked = [
        one
        for number, metric in enumerate(metrics)
        for one in _metric(metric, f"{path}.metrics[{number}]", notes)
    ]
    item["metrics"] = [translated for _, translated in sorted(ranked, key=lambda one: one[0])]
    return item


def _of_tasks(item: Object, path: str, notes: Notes) -> Object | None:
    """Olive's LMEvaluator: one metric that is the mean over its tasks."""
    if not item.get("tasks_from"):
        notes.refuse(path, NO_FILES)
        return None
    item = notes.sifted(LM_EVALUATOR, item, f"{path}.", OF_TASKS, not_a_field("an LMEvaluator", OF_TASKS))
    name = item.pop("name", None)
    metric = {"name": "accuracy", "type": "accuracy", **item}
    checked(Metric, metric, path, notes, droppable=False)
    return {"name": name, "metrics": [metric]}


def _metric(metric: Any, path: str, notes: Notes) -> list[tuple[float, Object]]:
    """One metric for each sub-type, with its priority: here, the order of the metrics says what matters most."""
    if not isinstance(metric, dict):
        notes.refuse(path, "must be an object")
        return []
    metric = notes.sifted(METRIC, metric, f"{path}.", METRIC_FIELDS, not_a_field("a metric", METRIC_FIELDS))
    sub_types = metric.pop("sub_types", None) or [{}]
    if not isinstance(sub_types, list):
        notes.refuse(f"{path}.sub_types", "must be a list")
        return []
    found = []
    for number, given in enumerate(sub_types):
        sub_type = {"name": given} if isinstance(given, str) else given
        where = f"{path}.sub_types[{number}]"
        if not isinstance(sub_type, dict):
            notes.refuse(where, "must be an object or a name")
        elif (one := _sub_type(metric, sub_type, where, len(sub_types) > 1, notes)) is not None:
            priority = sub_type.get("priority")
            found.append((priority if isinstance(priority, int) else math.inf, one))
    return found


def _sub_type(metric: Object, sub_type: Object, path: str, several: bool, notes: Notes) -> Object | None:
    known = ("name", "higher_is_better", "goal", "priority")
    sub_type = notes.sifted(SUB_TYPE, sub_type, f"{path}.", known, not_a_field("a sub-type", known))
    kind = sub_type.get("name")
    translated = dict(metric)
    if several and kind:
        translated["name"] = f"{metric.get('name')}-{kind}"
    if metric.get("type") == "accuracy" and kind == "perplexity":
        translated["type"] = "perplexity"
    elif metric.get("type") == "accuracy" and kind is not None:
        notes.refuse(
            f"{path}.name",
            f"{kind} is not available; write perplexity, or type accuracy with tasks of lm-eval and tasks_from",
            droppable=False,
        )
        return None
    elif metric.get("type") == "size_on_disk" and kind not in (None, "bytes"):
        notes.refuse(f"{path}.name", f"size_on_disk is measured in bytes, not in {kind}", droppable=False)
    elif metric.get("type") in TIMED:
        _timed(translated, sub_type, kind, path, notes)
    _check_direction(translated.get("type"), sub_type.get("higher_is_better"), path, notes)
    if sub_type.get("goal") is not None:
        translated["goal"] = sub_type["goal"]
    checked(Metric, translated, path, notes, droppable=False)
    return translated


def _check_direction(kind: Any, higher: Any, path: str, notes: Notes) -> None:
    """Which way is better is known of every type but accuracy, where its tasks say it."""
    if kind not in KINDS or kind == "accuracy" or higher is None:
        return
    lower = KINDS[kind].lower_is_better
    if bool(higher) == lower:
        right, word = ("lower", "false") if lower else ("higher", "true")
        notes.refuse(f"{path}.higher_is_better", f"a {right} {kind} is better; write {word}")


def _timed(translated: Object, sub_type: Object, kind: Any, path: str, notes: Notes) -> None:
    """Olive times one call of the model on its data, which is the prefill; here it is given a prompt of its own."""
    if kind not in (None, MEDIAN):
        notes.refuse(
            f"{path}.name",
            f"{kind} is not available, the median is measured; write {MEDIAN}",
            droppable=False,
        )
    translated.setdefault("phase", "prefill")
    if translated.pop("data_config", None) is not None:
        notes.leave_out(
            f"{path}.data_config", "speed is measured on a prompt of prompt_tokens tokens, without data"
        )
    goal = sub_type.get("goal")
    if translated["type"] == "throughput" and isinstance(goal, dict) and goal.get("type") not in IN_PERCENT:
        notes.refuse(
            f"{path}.goal",
            f"throughput is in tokens per second here, in calls per second in Olive; write {' or '.join(IN_PERCENT)}",
        )
