"""Which points a search tries, and in what order.

Pure: from the space, the seed and the points that are known, each worker derives the same answer, so workers need no
coordinator. `sequential` and `random` know all their points at once. `tpe` chooses one after another (see
optuna_sampler), and the store of trials keeps what it chose. `pass-by-pass` searches one space after another.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from quantization_api.search import MOST_POINTS, Decoded, SearchStrategy
from quantizer.search.space import CHAIN, Parameters, Space

Tried = Callable[["Stage"], list[Parameters]]
"""The points of a stage that were chosen so far, in order."""
Best = Callable[[Sequence[Parameters]], Parameters | None]
"""The best of these points; None while one of them has not ended, or where none can be chosen."""


@dataclass(frozen=True)
class Stage:
    """A space, and how many of its points are tried."""

    space: Space
    most: int
    before: int
    """Points of the stages before."""


def first_points(space: Space, sampler: str, most: int, seed: int) -> list[Parameters]:
    """The points of a space that are tried, for samplers that know them at once."""
    indexes = range(most) if sampler == "sequential" else shuffled(space.size, most, seed)
    return [space.parameters(index) for index in indexes]


def shuffled(size: int, most: int, seed: int) -> list[int]:
    """`most` of `size` numbers, each once; the same for the same seed, whatever `size` is."""
    chance = random.Random(seed)
    if size <= 4 * MOST_POINTS:
        return chance.sample(range(size), most)
    found: dict[int, None] = {}
    while len(found) < most:
        found[chance.randrange(size)] = None
    return list(found)


def most_points(space: Space, strategy: SearchStrategy) -> int:
    """How many points are tried at most, by all stages together."""
    total = space.size if strategy.execution_order == "joint" else sum(s.size for s in _upper_bounds(space))
    return min(total, strategy.max_samples or MOST_POINTS)


def stages(space: Space, strategy: SearchStrategy, tried: Tried, best: Best) -> Iterator[Stage]:
    """The spaces that are searched one after another, as far as they are known.

    joint: one. pass-by-pass: first the alternatives, with their passes as written; then the parameters of one pass
    after another, each beginning with the best of all points before.
    """
    left = strategy.max_samples or MOST_POINTS
    if strategy.execution_order == "joint":
        yield Stage(space, min(space.size, left), 0)
        return
    before: list[Parameters] = []
    found: Parameters = {}
    for narrow in _narrowed(space):
        part = narrow(found)
        if part is None:
            continue
        stage = Stage(part, min(part.size, left), len(before))
        yield stage
        points = tried(stage)
        before += points
        left -= stage.most
        chosen = best(before) if len(points) == stage.most else None
        if chosen is None or left <= 0:
            return
        found = chosen


def _narrowed(space: Space) -> Iterator[Callable[[Parameters], Space | None]]:
    """For each stage, its space given the best point so far; None where the stage does not concern that point."""
    if space.chains:
        yield lambda _: replace(space, axes=())
    for name in dict.fromkeys(axis.of for axis in space.axes):

        def narrow(found: Parameters, name: str = name) -> Space | None:
            chain = found.get(CHAIN)
            chains = (tuple(chain.split("+")),) if isinstance(chain, str) else ()
            if chains and name not in chains[0]:
                return None
            fixed: dict[str, Decoded] = {key: value for key, value in found.items() if key != CHAIN}
            axes = tuple(axis for axis in space.axes if axis.of == name)
            return replace(space, chains=chains, axes=axes, fixed=fixed)

        yield narrow


def _upper_bounds(space: Space) -> Iterator[Space]:
    """The spaces of pass-by-pass, whatever is found in them."""
    if space.chains:
        yield replace(space, axes=())
    for name in dict.fromkeys(axis.of for axis in space.axes):
        yield replace(space, chains=(), axes=tuple(axis for axis in space.axes if axis.of == name))
