"""What is refused of a search: names of passes and parameters that there are not, and values that no point can have."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from quantization_api.passes import PASS_TYPES, Pass, PassBase, foreign_parameter, owners
from quantization_api.rules import Rule, literal
from quantization_api.search import (
    MOST_POINTS,
    SearchDimension,
    SearchStrategy,
    decoded,
    grid_size,
    with_parameters,
)
from quantization_api.sequence_refusals import ORDER
from quantization_api.text import did_you_mean

NO_METRIC = (
    "a search needs figures to compare; write an evaluator with at least one metric other than size_on_disk"
)
NO_SUCH_PASS = "search_strategy names a pass that no pass, or more than one, has as its name"
HAS_CHAINS = "(has(self.search_strategy) && has(self.search_strategy.chains) && self.search_strategy.chains.size() > 0)"
"""CEL: the passes are alternatives and need not make a sequence together."""
NOT_SEARCHED = ("type", "name")
"""Of a pass: its identity."""
_DIMENSIONS = "(!has(self.search_strategy.search_space) || self.search_strategy.search_space.all(d, {}))"
_NAMED = "has(p.name) && p.name == "
PASS: TypeAdapter[Pass] = TypeAdapter(Pass)


def parameters_of(kind: type[PassBase]) -> list[str]:
    """The parameters of a type that can be searched."""
    return [name for name in kind.model_fields if name not in NOT_SEARCHED]


def search_rules() -> tuple[Rule, ...]:
    """The rules of a workflow with a search."""
    return (_needs_metric(), _names_passes(), _has_parameters())


def _needs_metric() -> Rule:
    there = (
        "(has(self.evaluator) && has(self.evaluators) && self.evaluators.exists(e, e.name == self.evaluator && "
        "e.metrics.exists(m, m.type != 'size_on_disk')))"
    )

    def check(workflow: Any) -> str | None:
        if workflow.search_strategy is None or any(m.type != "size_on_disk" for m in workflow.metrics()):
            return None
        return NO_METRIC

    return Rule(f"!has(self.search_strategy) || {there}", NO_METRIC, check, field="search_strategy")


def _names_passes() -> Rule:
    known = f"self.passes.exists_one(p, {_NAMED}{{}})"
    dimensions = _DIMENSIONS.format(known.format("d.pass"))
    chains = (
        "(!has(self.search_strategy.chains) || self.search_strategy.chains.all(c, "
        f"c.all(n, {known.format('n')})))"
    )

    def check(workflow: Any) -> str | None:
        strategy = workflow.search_strategy
        if strategy is None:
            return None
        names = [item.name for item in workflow.passes if item.name is not None]
        asked = [*(d.pass_ for d in strategy.search_space), *itertools.chain(*strategy.chains)]
        for name in asked:
            if names.count(name) != 1:
                return f"{NO_SUCH_PASS} ({', '.join(names) or 'none'}){did_you_mean(name, names)}"
        return None

    return Rule(
        f"!has(self.search_strategy) || ({dimensions} && {chains})",
        NO_SUCH_PASS,
        check,
        field="search_strategy",
    )


def _has_parameters() -> Rule:
    sentence = "search_space names a parameter that its pass does not have"
    known = literal({kind.__name__: parameters_of(kind) for kind in PASS_TYPES})
    belongs = f"self.passes.exists(p, {_NAMED}d.pass && d.parameter in {known}[p.type])"

    def check(workflow: Any) -> str | None:
        strategy = workflow.search_strategy
        for dimension in strategy.search_space if strategy else ():
            kind = type(next(item for item in workflow.passes if item.name == dimension.pass_))
            if dimension.parameter not in parameters_of(kind):
                return f"{sentence}{_instead(kind, dimension.parameter)}"
        return None

    return Rule(
        f"!has(self.search_strategy) || {_DIMENSIONS.format(belongs)}",
        sentence,
        check,
        field="search_strategy",
    )


def _instead(kind: type[PassBase], parameter: str) -> str:
    """What is wrong with a name, and what to write instead."""
    if parameter in NOT_SEARCHED:
        return f"; to try passes of several types, name each in passes and write chains ({parameter} stays)"
    if owners(parameter):
        return f": {foreign_parameter(parameter, kind.__name__)}"
    return f" ({parameter} of {kind.__name__}){did_you_mean(parameter, parameters_of(kind))}"


def impossible_value(passes: Sequence[Pass], strategy: SearchStrategy) -> str | None:
    """A sentence about a value that no point can have, or None.

    A value is tried in its pass as it is written, then beside every value of every other searched parameter of that
    pass: compressed-tensors with desc_act, say, is refused alone and not beside static_groups.
    """
    for item in passes:
        dimensions = [d for d in strategy.search_space if d.pass_ == item.name]
        written = item.model_dump(by_alias=True, exclude_unset=True)
        for dimension, value in ((d, v) for d in dimensions for v in d.values):
            said = _refused(written, {dimension.parameter: decoded(value)})
            if said is not None and not any(
                _refused(written, {dimension.parameter: decoded(value), **other}) is None
                for other in _others(dimensions, dimension)
            ):
                return f"search_space: {item.name}.{dimension.parameter} cannot be {value}: {said}"
    return None


def _others(dimensions: list[SearchDimension], besides: SearchDimension) -> Iterator[dict[str, Any]]:
    for other in dimensions:
        if other is not besides:
            yield from ({other.parameter: decoded(value)} for value in other.values)


def _refused(written: dict[str, Any], changes: dict[str, Any]) -> str | None:
    """Why a pass with these parameters is refused, or None."""
    try:
        PASS.validate_python(with_parameters(written, changes))
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return None


@dataclass(frozen=True)
class _Sequence:
    """What the refusals of a sequence look at."""

    passes: list[Pass]


def impossible_chain(passes: Sequence[Pass], strategy: SearchStrategy) -> str | None:
    """A sentence about a chain whose passes cannot follow one another, or a pass that no chain has, or None."""
    if not strategy.chains:
        return None
    named = {item.name: item for item in passes}
    for chain in strategy.chains:
        sequence = _Sequence([named[name] for name in chain])
        for refusal in ORDER:
            if refusal.refused.holds(sequence):
                return f"the chain {', '.join(chain)}: {refusal.sentence}"
    used = set(itertools.chain(*strategy.chains))
    for item in passes:
        if item.name not in used:
            return f"no chain has the pass {item.name or item.type}; name it in one, or leave the pass out"
    return None


def endless(strategy: SearchStrategy) -> str | None:
    """A sentence about a grid that is larger than a search may be and is not bounded by max_samples, or None."""
    size = grid_size(strategy)
    if strategy.max_samples is not None or size <= MOST_POINTS:
        return None
    return f"the grid has {size:,} points; write max_samples (at most {MOST_POINTS:,}), or fewer values"
