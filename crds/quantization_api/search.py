"""A search over parameters of passes, and over passes: which setting is best?

Each point of the search is a workflow of its own, without `search_strategy`; its recipe digest is the point's identity.
"""

import json
import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt

from quantization_api.bounded import ModulePath, Name, either
from quantization_api.rules import ContractModel, Rule

NOT_A_VALUE = (
    "must be a whole number, or text of at most 64 characters; write other values as texts, "
    'such as "0.01" and "true"'
)
NOTHING_SEARCHED = "nothing is searched; write search_space, or chains, or leave search_strategy out"
TWICE = "search_space names a parameter of a pass twice; write all its values into one list"
MOST_POINTS = 1024
"""Of a search."""
Decoded = bool | int | float | str | list[Any] | None
"""What a value of a search stands for."""


SearchValue = Annotated[
    StrictInt | Annotated[str, Field(max_length=64)],
    Field(union_mode="left_to_right"),
    either(NOT_A_VALUE),
]
"""A whole number, or text: JSON, such as "0.01" and "true", or, where it is none, itself ("gptq_v2")."""


def decoded(value: int | str) -> Decoded:
    """What a value stands for: the JSON that it is, or the text itself. null: the parameter is left out."""
    if isinstance(value, int):
        return value
    try:
        read: Decoded = json.loads(value, parse_constant=lambda word: word)
    except ValueError:
        return value
    return value if isinstance(read, dict) else read


def with_parameters(written: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A pass with other parameters; one that is None is left out."""
    return {name: value for name, value in {**written, **changes}.items() if value is not None}


class SearchDimension(ContractModel):
    """The values of one parameter of one pass that a search tries."""

    pass_: Name = Field(alias="pass", description="Name of the pass.")
    parameter: ModulePath = Field(description="Name of the parameter.")
    values: Annotated[list[SearchValue], Field(min_length=1, max_length=16)] = Field(
        description='Whole numbers, or texts that are read as JSON, such as "0.01" and "true".'
    )


Chain = Annotated[list[Name], Field(min_length=1, max_length=3)]


class SearchStrategy(ContractModel):
    """A search over parameters of passes, and over passes."""

    execution_order: Literal["joint", "pass-by-pass"] = Field(
        "joint",
        description="joint: the parameters of all passes together; pass-by-pass: those of one pass after another, each "
        "beginning with the best of the pass before.",
    )
    sampler: Literal["sequential", "random", "tpe"] = Field(
        "sequential",
        description="sequential: every point of the grid, in order; random: points of the grid, each once; tpe: "
        "points that the finished ones make promising.",
    )
    max_samples: Annotated[int, Field(ge=1, le=MOST_POINTS)] | None = Field(
        None, description="Points that are tried at most. If unset: all of the grid."
    )
    seed: Annotated[int, Field(ge=0, le=2147483647)] = Field(1, description="Of random and tpe.")
    stop_early: bool = Field(
        True, description="Give a point up as soon as it is clear that others are smaller and better."
    )
    keep: Literal["best", "front"] = Field(
        "best",
        description="Whose models are stored: of the best point only, or of all points of the Pareto front.",
    )
    chains: Annotated[list[Chain], Field(max_length=8)] = Field(
        default_factory=list,
        description="Alternatives: each is the names of the passes that run, in order. If unset: all passes.",
    )
    search_space: Annotated[list[SearchDimension], Field(max_length=16)] = Field(
        default_factory=list, description="The parameters that are searched."
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(has(self.search_space) && self.search_space.size() > 0) || "
            "(has(self.chains) && self.chains.size() > 0)",
            message=NOTHING_SEARCHED,
            check=lambda s: None if s.search_space or s.chains else NOTHING_SEARCHED,
        ),
        Rule(
            cel="!has(self.search_space) || self.search_space.all(d, self.search_space.exists_one(o, "
            "o.pass == d.pass && o.parameter == d.parameter))",
            message=TWICE,
            check=lambda s: (
                TWICE if len({(d.pass_, d.parameter) for d in s.search_space}) < len(s.search_space) else None
            ),
            field="search_space",
        ),
    )


def grid_size(strategy: SearchStrategy) -> int:
    """Points of the whole grid: of every chain, all combinations of the values of its passes."""
    chains = [set(chain) for chain in strategy.chains] or [{d.pass_ for d in strategy.search_space}]
    return sum(
        math.prod(len(d.values) for d in strategy.search_space if d.pass_ in chain) for chain in chains
    )
