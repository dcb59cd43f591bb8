"""Points that are given up early: another one is no larger and, so far, better by far.

While a point is computed, the mean error of each of its layers is compared with that of finished points of the same
passes. After the first third of the layers, a point is hopeless if one of those has no larger layers and an error that
is FACTOR times smaller in every one. Errors of layers do not order points exactly. Over bits, group_size, desc_act, sym
and damp_percent, a point was still better where its errors were up to 1.31 times another's on the example model (24
points), and up to 2.26 times on one with random weights (16 points). FACTOR leaves room above that.
"""

import math
from collections.abc import Mapping, Sequence

from quantizer.passes.interface import FinishedLayer
from quantizer.search.trials import LayerFigures

FACTOR = 4.0
LEAST_LAYERS = 2
"""Of a small model, a third would be one."""


class StoppedEarlyError(Exception):
    """The point that is being computed is hopeless."""


class Judge:
    """Sees each layer of a point as it is finished; call it as Setting.on_layer.

    Args:
        others: the layers of finished points of the same passes, by what they chose.
        layers: of the model.
    """

    def __init__(self, others: Mapping[str, Sequence[LayerFigures]], layers: int) -> None:
        self._others, self._layers = others, layers
        self._looks_at = min(layers, max(LEAST_LAYERS, math.ceil(layers / 3)))
        self._mine: dict[int, LayerFigures] = {}

    def __call__(self, index: int, layer: FinishedLayer) -> None:
        """Raises StoppedEarlyError for a hopeless point."""
        self._mine[index] = figures_of(layer)
        if index + 1 < self._looks_at or index + 1 == self._layers:
            return
        first = [self._mine.get(number) for number in range(self._looks_at)]
        mine = [one for one in first if one is not None]
        if len(mine) < self._looks_at:  # an earlier run computed some of them
            return
        for name, other in self._others.items():
            if is_hopeless(mine, other):
                ratio = min(one.error / max(two.error, 1e-30) for one, two in zip(mine, other, strict=False))
                raise StoppedEarlyError(
                    f"after {index + 1} of {self._layers} layers, each has an error at least {ratio:.1f} times that of "
                    f"{name}, which is no larger"
                )

    @property
    def layers(self) -> list[LayerFigures]:
        """Those of the whole point; none where an earlier run computed some of them."""
        whole = len(self._mine) == self._layers
        return [self._mine[number] for number in range(self._layers)] if whole else []


def figures_of(layer: FinishedLayer) -> LayerFigures:
    """What a layer is judged by."""
    errors = [linear.error for linear in layer.linears]
    size = sum(tensor.numel() * tensor.element_size() for tensor in layer.tensors.values())
    return LayerFigures(error=sum(errors) / len(errors) if errors else 0.0, size=size)


def is_hopeless(mine: Sequence[LayerFigures], other: Sequence[LayerFigures]) -> bool:
    """Whether another point is no larger and better by FACTOR in every layer that both have."""
    if len(other) < len(mine) or not mine:
        return False
    return all(
        two.size <= one.size and one.error > FACTOR * two.error for one, two in zip(mine, other, strict=False)
    )
