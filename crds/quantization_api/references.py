"""Names by which parts of a workflow refer to others: each must be there, and the sentence lists those that are."""

from collections.abc import Callable
from typing import Any

from quantization_api.rules import Rule
from quantization_api.text import did_you_mean

MOST_DATA_CONFIGS, MOST_EVALUATORS = 8, 4


def pass_reference(field: str) -> Rule:
    """A field of a pass that names a data config."""
    return _reference(
        f"a pass names a {field} that is not in data_configs",
        "passes",
        f"self.passes.all(p, !has(p.{field}) || {_has('data_configs', f'p.{field}')})",
        "data_configs",
        MOST_DATA_CONFIGS,
        lambda workflow: [getattr(item, field, None) for item in workflow.passes],
    )


def metric_reference() -> Rule:
    """The data config that a metric names."""
    there = _has("data_configs", "m.data_config")
    return _reference(
        "a metric names a data_config that is not in data_configs",
        "evaluators",
        f"!has(self.evaluators) || self.evaluators.all(e, e.metrics.all(m, !has(m.data_config) || {there}))",
        "data_configs",
        MOST_DATA_CONFIGS,
        lambda workflow: [metric.data_config for item in workflow.evaluators for metric in item.metrics],
    )


def evaluator_reference() -> Rule:
    """The evaluator that judges the result."""
    return _reference(
        "evaluator names an evaluator that is not in evaluators",
        "evaluator",
        f"!has(self.evaluator) || {_has('evaluators', 'self.evaluator')}",
        "evaluators",
        MOST_EVALUATORS,
        lambda workflow: [workflow.evaluator],
    )


def _reference(
    sentence: str, field: str, cel: str, listed: str, most: int, names: Callable[[Any], list[str | None]]
) -> Rule:
    """names: those that a workflow refers to. Only Python says which of the `listed` items, `most` at most, is near."""

    def check(workflow: Any) -> str | None:
        known = [item.name for item in getattr(workflow, listed)]
        for name in names(workflow):
            if name is not None and name not in known:
                return f"{sentence} ({', '.join(known) or 'none'}){did_you_mean(name, known)}"
        return None

    message = f"'{sentence} (' + {_names(listed, most)} + ')'"
    return Rule(cel, message, check, dynamic=True, field=field)


def _has(listed: str, name: str) -> str:
    """CEL: whether an item of the list has the name."""
    return f"(has(self.{listed}) && self.{listed}.exists(d, d.name == {name}))"


def _names(listed: str, most: int) -> str:
    """CEL: the names of the list's items, one by one: the API server takes what `join` makes to be endless."""
    names = [f"self.{listed}[{index}].name" for index in range(most)]
    others = [f"(self.{listed}.size() > {index} ? ', ' + {names[index]} : '')" for index in range(1, most)]
    return f"(has(self.{listed}) && self.{listed}.size() > 0 ? {' + '.join([names[0], *others])} : 'none')"
