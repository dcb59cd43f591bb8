"""Bits where they matter: one candidate for each item, so that the loss is small and the cost within a budget. Pure.

This is the multiple-choice knapsack problem. Of an item only the candidates on the lower convex hull of (cost, loss)
can be part of an optimum of the relaxed problem, and walking along the hulls, the steepest step first, gives that
optimum until a step does not fit. What is left of the budget is spent by moves of one item and by exchanges between
two, the best one first, as long as the loss falls.

Everything is decided by comparisons in the order of the items, so equal inputs give equal choices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LOST = 1e-12
"""Share of the loss below which a difference is rounding, not a gain."""


@dataclass(frozen=True)
class Candidate:
    """A way to store an item."""

    cost: int
    """In bits."""
    loss: float
    """What it adds to the loss of the whole."""


Item = Sequence[Candidate]


@dataclass(frozen=True)
class _Move:
    """An item takes another candidate: loss and cost are what it adds."""

    loss: float
    cost: int
    item: int
    to: int


def choose(items: Sequence[Item], budget: int) -> list[int] | None:
    """The number of the chosen candidate of each item; None where the cheapest ones exceed the budget."""
    hulls = [_convex(item, useful(item)) for item in items]
    chosen = [hull[0] for hull in hulls]
    spare = budget - total(items, chosen)
    if spare < 0:
        return None
    steps = sorted(
        (_slope(items[number], low, high), number, low, high)
        for number, hull in enumerate(hulls)
        for low, high in pairwise(hull)
    )
    for _, number, low, high in steps:  # along a hull the slopes rise, so its steps come in their order
        more = items[number][high].cost - items[number][low].cost
        if chosen[number] == low and more <= spare:
            chosen[number], spare = high, spare - more
    return _repaired(items, chosen, spare)


def total(items: Sequence[Item], chosen: Sequence[int]) -> int:
    """The cost of a choice."""
    return sum(item[number].cost for item, number in zip(items, chosen, strict=True))


def useful(item: Item) -> list[int]:
    """Numbers of the candidates that none is better than in both: by rising cost, and so by falling loss."""
    order = sorted(range(len(item)), key=lambda number: (item[number].cost, item[number].loss, number))
    kept: list[int] = []
    for number in order:
        if not kept or item[number].loss < item[kept[-1]].loss:
            kept.append(number)
    return kept


def _convex(item: Item, numbers: Sequence[int]) -> list[int]:
    """Those of the useful candidates that lie on the lower convex hull."""
    hull: list[int] = []
    for number in numbers:
        while len(hull) > 1 and _slope(item, hull[-2], hull[-1]) >= _slope(item, hull[-1], number):
            hull.pop()
        hull.append(number)
    return hull


def _slope(item: Item, low: int, high: int) -> float:
    """Change of the loss for each bit; below zero."""
    return (item[high].loss - item[low].loss) / (item[high].cost - item[low].cost)


def _repaired(items: Sequence[Item], chosen: list[int], spare: int) -> list[int]:
    """Spends what is left, until neither a move nor an exchange of two lowers the loss."""
    ladders = [useful(item) for item in items]
    while best := _best(items, ladders, chosen, spare):
        for move in best:
            chosen[move.item], spare = move.to, spare - move.cost
    return chosen


def _best(
    items: Sequence[Item], ladders: Sequence[Sequence[int]], chosen: Sequence[int], spare: int
) -> tuple[_Move, ...]:
    moves = [move for number in range(len(items)) for move in _neighbours(items, ladders, chosen, number)]
    up, down = [move for move in moves if move.cost > 0], [move for move in moves if move.cost < 0]
    pairs = [(low, high) for low in down for high in up if low.item != high.item]
    fitting = [found for found in [*((move,) for move in up), *pairs] if _of(found)[1] <= spare]
    enough = LOST * sum(item[number].loss for item, number in zip(items, chosen, strict=True))
    best = min(fitting, key=lambda found: _of(found)[0], default=())
    return best if best and _of(best)[0] < -enough else ()


def _of(moves: Sequence[_Move]) -> tuple[float, int]:
    """What moves add together to loss and cost."""
    return sum(move.loss for move in moves), sum(move.cost for move in moves)


def _neighbours(
    items: Sequence[Item], ladders: Sequence[Sequence[int]], chosen: Sequence[int], number: int
) -> list[_Move]:
    """The moves of an item to the next useful candidate above and below."""
    item, ladder, now = items[number], ladders[number], items[number][chosen[number]]
    place = ladder.index(chosen[number])
    beside = [ladder[at] for at in (place - 1, place + 1) if 0 <= at < len(ladder)]
    return [_Move(item[to].loss - now.loss, item[to].cost - now.cost, number, to) for to in beside]
