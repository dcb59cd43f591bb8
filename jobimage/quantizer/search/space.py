"""The points of a search, each a workflow of its own. Pure: no model, no storage, no chance."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from quantization_api.search import Decoded, decoded, with_parameters
from quantization_api.workflow import Workflow

CHAIN = "passes"
"""Under this name of a parameter stand the passes of a point, where alternatives are searched."""
Parameters = dict[str, Decoded]
"""By PASS.PARAMETER, and the passes joined by + under CHAIN."""


@dataclass(frozen=True)
class Point:
    """One point: what was chosen, and the workflow that it makes."""

    parameters: Parameters
    workflow: Workflow | None
    """None where the contract refuses the combination."""
    refused: str = ""
    """The sentence with which it does."""

    @property
    def name(self) -> str:
        """What was chosen, as people read it."""
        return ",".join(f"{key}={shown(value)}" for key, value in self.parameters.items())


@dataclass(frozen=True)
class Axis:
    """The values of one parameter."""

    of: str
    """Name of the pass."""
    parameter: str
    values: tuple[Decoded, ...]

    @property
    def name(self) -> str:
        """PASS.PARAMETER."""
        return f"{self.of}.{self.parameter}"


@dataclass(frozen=True)
class Space:
    """The grid of a search: every chain with all combinations of the values of its passes."""

    workflow: Workflow
    """Without search_strategy and without goals, which are judged when all points are known."""
    chains: tuple[tuple[str, ...], ...]
    """Alternatives; none: all passes, as they are written."""
    axes: tuple[Axis, ...]
    fixed: Mapping[str, Decoded] = field(default_factory=dict)
    """Parameters that are the same in all points, by PASS.PARAMETER."""

    @classmethod
    def of(cls, workflow: Workflow) -> "Space":
        """The space of a workflow with a search."""
        strategy = workflow.search_strategy
        if strategy is None:
            raise ValueError("not a workflow with a search")
        axes = [Axis(d.pass_, d.parameter, _distinct(d.values)) for d in strategy.search_space]
        return cls(_without_goals(workflow), tuple(map(tuple, strategy.chains)), tuple(axes))

    @property
    def size(self) -> int:
        """Number of points."""
        return sum(size for _, size in self._parts)

    def axes_of(self, chain: tuple[str, ...] | None) -> list[Axis]:
        """The axes of the passes of a chain."""
        return [axis for axis in self.axes if chain is None or axis.of in chain]

    def parameters(self, index: int) -> Parameters:
        """What point `index` chooses; the last axis changes first."""
        for chain, size in self._parts:
            if index < size:
                return self._parameters(chain, index)
            index -= size
        raise IndexError(index)

    def point(self, parameters: Parameters) -> Point:
        """The point that chooses these."""
        try:
            return Point(parameters, self._workflow(parameters))
        except ValidationError as error:
            return Point(parameters, None, error.errors()[0]["msg"])

    @cached_property
    def _parts(self) -> list[tuple[tuple[str, ...] | None, int]]:
        chains: Sequence[tuple[str, ...] | None] = self.chains or (None,)
        return [(chain, math.prod(len(axis.values) for axis in self.axes_of(chain))) for chain in chains]

    def _parameters(self, chain: tuple[str, ...] | None, index: int) -> Parameters:
        chosen: Parameters = {}
        for axis in reversed(self.axes_of(chain)):
            index, place = divmod(index, len(axis.values))
            chosen[axis.name] = axis.values[place]
        passes: Parameters = {} if chain is None else {CHAIN: "+".join(chain)}
        fixed = {name: value for name, value in self.fixed.items() if chain is None or _owner(name) in chain}
        return passes | fixed | dict(reversed(chosen.items()))

    def _workflow(self, parameters: Parameters) -> Workflow:
        document = self.workflow.model_dump(mode="json", by_alias=True, exclude_unset=True)
        named = {item.get("name"): item for item in document["passes"]}
        chain = parameters.get(CHAIN)
        passes = [named[name] for name in chain.split("+")] if isinstance(chain, str) else document["passes"]
        document["passes"] = [_without_name(_changed(item, parameters)) for item in passes]
        return Workflow.model_validate(document)


def shown(value: Any) -> str:
    """A value as a manifest writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _changed(item: dict[str, Any], parameters: Parameters) -> dict[str, Any]:
    mine = {
        name.rpartition(".")[2]: value
        for name, value in parameters.items()
        if name != CHAIN and _owner(name) == item.get("name")
    }
    return with_parameters(item, mine)


def _owner(name: str) -> str:
    """The pass of PASS.PARAMETER: a pass's name may have dots, a parameter's has none."""
    return name.rpartition(".")[0]


def _without_name(item: dict[str, Any]) -> dict[str, Any]:
    """The name is the search's: the same point in another search has the same recipe."""
    return {key: value for key, value in item.items() if key != "name"}


def _without_goals(workflow: Workflow) -> Workflow:
    evaluators = [
        evaluator.model_copy(
            update={"metrics": [m.model_copy(update={"goal": None}) for m in evaluator.metrics]}
        )
        for evaluator in workflow.evaluators
        if evaluator.name == workflow.evaluator
    ]
    return workflow.model_copy(update={"search_strategy": None, "evaluators": evaluators})


def _distinct(values: Sequence[int | str]) -> tuple[Decoded, ...]:
    """The values, those that mean the same once."""
    found: list[Decoded] = []
    for value in map(decoded, values):
        if not any(one == value and type(one) is type(value) for one in found):  # 1 and true are two values
            found.append(value)
    return tuple(found)
