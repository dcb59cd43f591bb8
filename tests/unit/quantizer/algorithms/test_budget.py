"""The choice under a budget is that of an exhaustive search, or close to it, and never over the budget."""

import random
from itertools import product

import pytest

from quantizer.algorithms.budget import Candidate, choose, total, useful

pytestmark = pytest.mark.unit


def an_item(generator: random.Random, sizes: int) -> list[Candidate]:
    """Bits 2, 3, 4 and 8 of a linear: a bit more divides the loss by about four."""
    weights, loss = generator.choice([100, 200, 400]), generator.uniform(0.1, 10)
    return [
        Candidate(weights * bits, loss * 4.0**-bits * generator.uniform(0.7, 1.4))
        for bits in (2, 3, 4, 8)[:sizes]
    ]


def loss_of(items: list[list[Candidate]], chosen: list[int]) -> float:
    """The sum over the items."""
    return sum(item[number].loss for item, number in zip(items, chosen, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_it_is_close_to_an_exhaustive_search(seed: int) -> None:
    generator = random.Random(seed)
    items = [an_item(generator, 4) for _ in range(6)]
    budget = int(3.5 * sum(item[0].cost / 2 for item in items))
    chosen = choose(items, budget)
    assert chosen is not None
    assert total(items, chosen) <= budget
    every = [list(found) for found in product(*(range(len(item)) for item in items))]
    best = min(loss_of(items, found) for found in every if total(items, found) <= budget)
    assert loss_of(items, chosen) <= 1.1 * best


def test_a_budget_below_the_cheapest_is_refused() -> None:
    items = [[Candidate(20, 2.0), Candidate(10, 5.0)], [Candidate(30, 1.0)]]
    assert choose(items, 39) is None
    assert choose(items, 40) == [1, 0]


def test_with_room_for_everything_every_item_gets_its_best() -> None:
    items = [an_item(random.Random(seed), 4) for seed in range(5)]
    chosen = choose(items, 10**9)
    assert chosen == [min(range(4), key=lambda number: item[number].loss) for item in items]


def test_a_candidate_that_costs_more_and_is_worse_is_of_no_use() -> None:
    item = [Candidate(40, 1.0), Candidate(30, 0.5), Candidate(20, 2.0), Candidate(20, 3.0)]
    assert useful(item) == [2, 1]


def test_what_the_steepest_steps_leave_over_is_spent() -> None:
    """The steepest step does not fit; the one that does is taken."""
    items = [[Candidate(10, 9.0), Candidate(100, 0.0)], [Candidate(10, 1.0), Candidate(20, 0.5)]]
    assert choose(items, 40) == [0, 1]


def test_equal_losses_are_settled_by_order() -> None:
    item = [Candidate(10, 4.0), Candidate(20, 1.0)]
    assert choose([item, item, item], 40) == [1, 0, 0]
