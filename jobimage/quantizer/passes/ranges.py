"""How far the largest numbers of a layer stand out before it is rotated and after: what a rotation is for.

Grids reach to the largest number, so the ratio of that to the root of the mean square says how coarse they are for all
the others. It is measured on the way: weights as a layer is rotated, inputs as calibration looks at them. The inputs
before the rotation are those of the rotated layer, turned back, with the norm's weight and bias that were folded away.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantization_api.manifest import LayerRanges, Spread
from quantizer.algorithms.quarot.rotation import norm_weight
from quantizer.algorithms.quarot.rotation_layout import NormSite
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.decoder.walk import LayerWalk, Look, Routed


class _Numbers:
    """Largest absolute value and mean square of numbers that come in parts, the same in whatever order they come."""

    def __init__(self) -> None:
        self._largest, self._count = 0.0, 0
        self._squares: list[float] = []

    def add(self, values: Tensor) -> None:
        """Numbers of any shape; none are nothing."""
        if values.numel() == 0:
            return
        largest = float(torch.stack(torch.aminmax(values)).abs().max())
        self._largest = max(self._largest, largest)
        self._squares.append(float(values.float().square().sum(dtype=torch.float64)))
        self._count += values.numel()

    def spread(self, name: str) -> Spread:
        """Of what was added, which is `name`'s."""
        mean = math.fsum(self._squares) / self._count if self._count else 0.0
        return Spread(name=name, largest=self._largest, rms=math.sqrt(mean))


class LayerWatch:
    """Ranges of one layer. Made before the layer is rotated; `rotated` comes next, `look` with each of its inputs.

    Args:
        index: of the layer.
        weights: its tensors by their names in it, unrotated.
        norms: of the residual stream.
        turned_back: rows [..., width] of the rotated stream -> as they were before.
    """

    def __init__(
        self,
        index: int,
        weights: Mapping[str, Tensor],
        norms: Sequence[NormSite],
        turned_back: Callable[[Tensor], Tensor],
    ) -> None:
        self._index, self._turned_back = index, turned_back
        self._folded = {reader: _folded(norm, weights) for norm in norms for reader in norm.readers}
        self._weights_before = self._of_weights(weights)
        self._weights_after = self._weights_before
        self._before: dict[str, _Numbers] = {}
        self._after: dict[str, _Numbers] = {}
        self._lock = threading.Lock()

    def rotated(self, weights: Mapping[str, Tensor]) -> None:
        """The same tensors, rotated."""
        self._weights_after = self._of_weights(weights)

    def look(self, shared: SharedInput, read: Tensor) -> None:
        """Inputs [..., K] of the rotated layer; those that do not come from a norm are left out. Safe in threads."""
        name = shared.names[0]
        if name not in self._folded or read.numel() == 0:
            return
        scale, shift = self._folded[name]
        before = torch.addcmul(shift.to(read.device), self._turned_back(read), scale.to(read.device))
        with self._lock:
            self._before.setdefault(name, _Numbers()).add(before)
            self._after.setdefault(name, _Numbers()).add(read)

    def ranges(self) -> LayerRanges:
        """What was seen."""
        return LayerRanges(
            layer=self._index,
            weights_before=self._weights_before,
            weights_after=self._weights_after,
            inputs_before=_widest(self._before.items()),
            inputs_after=_widest(self._after.items()),
        )

    def _of_weights(self, weights: Mapping[str, Tensor]) -> Spread:
        seen = {name: _Numbers() for name in self._folded}
        for name, numbers in seen.items():
            numbers.add(weights[f"{name}.weight"])
        found = _widest(seen.items())
        return found or Spread(name="", largest=0, rms=0)


class WatchedWalk(LayerWalk):
    """A walk whose inputs a LayerWatch sees as well."""

    def __init__(self, walk: LayerWalk, watch: LayerWatch) -> None:
        self._walk, self._watch = walk, watch
        self.stages, self.side_by_side, self.shapes = walk.stages, walk.side_by_side, walk.shapes

    @override
    def linear(self, name: str) -> nn.Linear:
        return self._walk.linear(name)

    @override
    def module(self, name: str) -> nn.Module:
        return self._walk.module(name)

    @override
    def visit(
        self,
        stages: Sequence[Stage],
        look: Look,
        *,
        propagate_unrounded: bool = False,
        every_expert: Routed | None = None,
    ) -> None:
        def both(number: int, shared: SharedInput, read: Tensor) -> None:
            self._watch.look(shared, read)
            look(number, shared, read)

        self._walk.visit(stages, both, propagate_unrounded=propagate_unrounded, every_expert=every_expert)

    @override
    def finish(self, stages: Sequence[Stage]) -> None:
        self._walk.finish(stages)

    @override
    def forward(self, states: Tensor) -> Tensor:
        return self._walk.forward(states)

    @override
    def finish_from(self, inputs: ActivationStore) -> None:
        self._walk.finish_from(inputs)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._walk.__exit__(kind, error, trace)


def _folded(norm: NormSite, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the rotation took from a norm: the weight, and the bias where its readers took it (see fuse_norm)."""
    stored = weights.get(f"{norm.name}.weight")
    if stored is None:
        one = torch.ones(weights[f"{norm.readers[0]}.weight"].shape[1])
        return one, torch.zeros_like(one)
    weight = norm_weight(norm.kind, stored).float()
    bias = weights.get(f"{norm.name}.bias")
    if bias is None or not all(f"{reader}.bias" in weights for reader in norm.readers):
        return weight, torch.zeros_like(weight)
    return weight, bias.float()


def _widest(seen: Iterable[tuple[str, _Numbers]]) -> Spread | None:
    """The one whose largest number stands out most; None without any."""
    spreads = [numbers.spread(name) for name, numbers in seen]
    return max(spreads, key=lambda spread: spread.largest / spread.rms if spread.rms else 0.0, default=None)
