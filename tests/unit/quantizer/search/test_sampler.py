"""The order of a search: the same for every worker, and each point once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.support.searches import ALTERNATIVES, NAMED_PASS, dimension, search
from tests.unit.quantizer.search.test_space import space

from quantization_api.search import SearchStrategy
from quantizer.search.optuna_sampler import Known, suggest
from quantizer.search.sampler import Stage, first_points, most_points, stages
from quantizer.search.space import Axis, Parameters, Space

pytestmark = pytest.mark.unit

BITS, GROUPS = dimension("bits", 2, 3, 4, 8), dimension("group_size", 16, 32, 64)
BOTH = (NAMED_PASS, search(BITS, GROUPS))


def strategy(**fields: Any) -> SearchStrategy:
    return SearchStrategy.model_validate({"search_space": [BITS, GROUPS], **fields})


def test_random_points_are_each_tried_once_in_an_order_of_the_seed() -> None:
    grid = space(*BOTH)
    once, again = (first_points(grid, "random", 12, seed=5) for _ in range(2))
    assert once == again
    assert once != first_points(grid, "random", 12, seed=6)
    everything = first_points(grid, "sequential", 12, seed=5)
    assert sorted(map(str, once)) == sorted(map(str, everything))
    assert once != everything


def test_a_few_of_a_huge_grid_are_drawn_without_listing_it() -> None:
    axes = tuple(Axis("q", f"parameter_{number}", tuple(range(16))) for number in range(16))
    wide = replace(space(*BOTH), axes=axes)
    assert wide.size == 2**64
    assert len(first_points(wide, "random", 3, seed=1)) == 3


def test_no_more_points_than_asked_for() -> None:
    assert most_points(space(*BOTH), strategy(max_samples=5)) == 5
    assert most_points(space(*BOTH), strategy()) == 12


def tried(stage: Stage) -> list[Parameters]:
    return first_points(stage.space, "sequential", stage.most, 1)


def test_pass_by_pass_begins_with_the_best_of_the_pass_before() -> None:
    grid = space(
        *ALTERNATIVES,
        search(
            dimension("rotation_seed", 0, 1, of="quarot"),
            dimension("bits", 4, 8, of="gptq"),
            chains=[["gptq"], ["awq"], ["quarot", "gptq"]],
        ),
    )

    def best(points: Sequence[Parameters]) -> Parameters | None:
        return points[-1]

    found = [tried(stage) for stage in stages(grid, strategy(execution_order="pass-by-pass"), tried, best)]
    assert found == [
        [{"passes": "gptq"}, {"passes": "awq"}, {"passes": "quarot+gptq"}],
        [{"passes": "quarot+gptq", "quarot.rotation_seed": seed} for seed in (0, 1)],
        [{"passes": "quarot+gptq", "quarot.rotation_seed": 1, "gptq.bits": bits} for bits in (4, 8)],
    ]


def test_the_next_pass_waits_for_every_point_of_the_pass_before() -> None:
    grid = space(
        *ALTERNATIVES, search(dimension("bits", 4, 8, of="gptq"), chains=[["gptq"], ["awq"], ["quarot"]])
    )
    order = strategy(execution_order="pass-by-pass")
    assert len(list(stages(grid, order, tried, lambda _: None))) == 1


def known(grid: Space, count: int) -> list[Known]:
    """Points with a value: fewer bits and larger groups are better."""
    points = first_points(grid, "random", count, seed=9)
    return [Known(p, (float(str(p["q.bits"])), -float(str(p["q.group_size"]))), ended=True) for p in points]


def test_tpe_suggests_the_same_for_the_same_knowledge_and_nothing_that_is_known() -> None:
    grid = space(*BOTH)
    before = known(grid, 8)
    once, again = (suggest(grid, before, 2, seed=3) for _ in range(2))
    assert once == again
    assert once is not None
    assert once not in [one.parameters for one in before]


def test_tpe_does_not_suggest_what_another_worker_computes_now() -> None:
    grid = space(*BOTH)
    before = known(grid, 8)
    first = suggest(grid, before, 2, seed=3)
    assert first is not None
    second = suggest(grid, [*before, Known(first)], 2, seed=3)
    assert second != first


def test_tpe_gives_up_when_everything_is_known() -> None:
    grid = space(*BOTH)
    assert suggest(grid, known(grid, 12), 2, seed=3) is None
