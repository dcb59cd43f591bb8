"""A decoder layer in which each linear is a product of two thin ones, to try a rotation on, whatever its size.

A rotation of the residual stream turns what a linear reads, or what it writes. So it turns one of the two, with the
arithmetic that turns the whole; and a layer of a model of 70 billion weights is tried with a few million numbers.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from quantizer.algorithms.quarot.rotation import Orthogonal, Turned, fuse_norm, rotate_stream, rotate_values
from quantizer.algorithms.quarot.rotation_layout import LayerLayout
from quantizer.decoder.blocks import held_tensors, load_weights
from quantizer.decoder.buffers import compute_buffers
from quantizer.decoder.generic import GenericLayer
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.tracing import is_linear

TOKENS = 6
TOLERANCE = 1e-5
RANK = 6
"""Of the weights of linears."""
PERIOD = 999_983
"""A prime: random numbers of large tensors repeat after as many."""
FIRST, SECOND = "first", "second"
"""The two thin linears: what reads, and what writes."""
CPU = torch.device("cpu")

Weights = dict[str, Tensor]


class Reflection:
    """x -> x - 2 (x v) v with |v| = 1: orthogonal, and its own inverse.

    keeps_mean: sum(v) = 0, so that the mean of x stays.
    """

    def __init__(self, size: int, *, keeps_mean: bool) -> None:
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
        if keeps_mean:
            drawn = drawn - drawn.mean()
        self.size, self._direction = size, drawn / drawn.norm()

    def apply(self, x: Tensor) -> Tensor:
        """x Q for x [..., size]."""
        direction = self._direction.to(x)
        turned: Tensor = x - 2.0 * (x @ direction)[..., None] * direction
        return turned

    def apply_transposed(self, x: Tensor) -> Tensor:
        """x Q' for x [..., size]."""
        return self.apply(x)


class ThinLinear(nn.Module):
    """In the place of a linear [N, K]: the product of one [N, RANK] and one [RANK, K]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        has_bias = linear.bias is not None
        with torch.device("meta"):
            self.first = nn.Linear(self.in_features, RANK, bias=has_bias)
            self.second = nn.Linear(RANK, self.out_features, bias=has_bias)

    @property
    def weight(self) -> Tensor:
        """For classes that look at it."""
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor | None:
        """The same of its bias."""
        own: Tensor | None = self.second.bias
        return None if own is None else own + self.second.weight @ self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] to [..., N]."""
        made: Tensor = self.second(self.first(x))
        return made


class LayerTrial:
    """Layer `index` of a model, on random weights.

    Attributes: width (of the stream), plain (the layer as it is, without weights), weights (random ones, by the names
    in the checkpoint; those of a linear NAME are NAME.first.weight and NAME.second.weight).
    """

    def __init__(self, model: DecoderModel, index: int) -> None:
        pattern, skeleton = model.layout.pattern(index), model.layout.skeleton
        self._module, self._arguments_of = model.stock_layer(index)
        self._names, self.width, self._config = pattern.names, model.layout.width, model.layout.config
        self.plain = GenericLayer(pattern.fresh(), pattern.stages, self._arguments_of, pattern.names)
        compute_buffers(skeleton.causal, self._module, CPU, skeleton.layers_name)
        linears = {name: part for name, part in self._module.named_modules() if isinstance(part, nn.Linear)}
        thin = {name for name, part in linears.items() if is_linear(part)}
        for name in thin:
            parent, _, leaf = name.rpartition(".")
            setattr(self._module.get_submodule(parent), leaf, ThinLinear(linears[name]))
        self._own = {self._stored(name, thin): name for name, _ in held_tensors(self._module)}
        self.weights = {
            self._stored(name, thin): random((*value.shape,), number)
            for number, (name, value) in enumerate(held_tensors(self._module))
        }

    def _stored(self, name: str, thin: set[str]) -> str:
        linear, _, leaf = name.rpartition(".")
        above, _, part = linear.rpartition(".")
        if above in thin:
            return f"{self._names.module(above)}.{part}.{leaf}"
        return self._names.stored.get(name, name)

    def owner(self, name: str) -> nn.Module:
        """The module that has a tensor of `weights`."""
        return self._module.get_submodule(self._own[name].rpartition(".")[0])

    def sizes(self) -> dict[str, tuple[int, int]]:
        """(N, K) of each linear: outputs, inputs."""
        linears = (
            (name, part) for name, part in self._module.named_modules() if isinstance(part, ThinLinear)
        )
        return {self._names.module(name): (part.out_features, part.in_features) for name, part in linears}

    def vectors(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors of no linear that have a number for each channel of the stream."""
        for name, value in self.weights.items():
            if value.numel() == self.width == max(value.shape) and not _is_thin(name):
                yield name, value

    def shifts(self) -> tuple[str, ...]:
        """Those of them that no norm has: they may be added to the stream."""
        return tuple(
            name
            for name, value in self.vectors()
            if value.ndim == 1 and getattr(self.owner(name), "weight", None) is None
        )

    def made(self, weights: Weights, hidden: Tensor) -> Tensor:
        """What the layer makes of hidden states, with these weights."""
        module = copy.deepcopy(self._module, {id(self._config): self._config})  # some keep what they made
        load_weights(module, dict(weights), lambda _, value: value, self._own.__getitem__)
        return GenericLayer(module, (), self._arguments_of).forward(hidden)

    def turned(
        self, weights: Weights, layout: LayerLayout, turn: Orthogonal, values: Orthogonal | None
    ) -> Weights:
        """The weights of the rotated layer, with the arithmetic that rotates a model."""
        changed, thin = Turned(weights), self._thin(layout)
        for norm in thin.norms:
            fuse_norm(changed, norm)
        rotate_stream(changed, thin, turn)
        if thin.attention is not None and values is not None:
            rotate_values(changed, thin.attention, values)
        return {name: changed[name].float() for name in weights}

    def stays(
        self, layout: LayerLayout, turn: Orthogonal, changed: Mapping[str, Tensor] | None = None
    ) -> bool:
        """Whether the layer makes the same of a turned stream, turned.

        changed: weights in the place of the random ones.
        """
        heads = layout.attention
        values = None if heads is None else Reflection(heads.head_dim, keeps_mean=False)
        weights = {**self.weights, **(changed or {})}
        expected = self.made(weights, self._hidden) if changed else self._expected
        turned = self.made(self.turned(weights, layout, turn, values), turn.apply(self._hidden))
        return alike(turned, turn.apply(expected), (expected - self._hidden).abs().max())

    @cached_property
    def _hidden(self) -> Tensor:
        return random((1, TOKENS, self.width), 1)

    @cached_property
    def _expected(self) -> Tensor:
        return self.made(self.weights, self._hidden)

    def _thin(self, layout: LayerLayout) -> LayerLayout:
        heads = layout.attention
        return replace(
            layout,
            norms=tuple(replace(norm, readers=self._parts(norm.readers, FIRST)) for norm in layout.norms),
            writers=self._parts(layout.writers, SECOND),
            attention=None
            if heads is None
            else replace(heads, value=f"{heads.value}.{SECOND}", output=f"{heads.output}.{FIRST}"),
        )

    def _parts(self, names: Iterable[str], part: str) -> tuple[str, ...]:
        """Linears by the part that is turned; a router is one of its own."""
        return tuple(f"{name}.{part}" if f"{name}.{part}.weight" in self.weights else name for name in names)


def _is_thin(name: str) -> bool:
    return name.rpartition(".")[0].endswith((f".{FIRST}", f".{SECOND}"))


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers that differ by row and column, in float32, cheap for large shapes; those of a matrix keep sizes.

    Those of a vector lie about one, and none near zero: biases are divided by the weights of norms.
    """
    count = math.prod(shape)
    drawn = torch.randn(min(count, PERIOD), generator=torch.Generator().manual_seed(seed))
    if len(shape) < 2:
        drawn = 1.0 + 0.3 * drawn.clamp(-2.0, 2.0)
    elif len(shape) == 2:
        drawn = drawn / shape[1] ** 0.5
    return drawn.repeat(-(-count // max(1, len(drawn))))[:count].reshape(shape)


def alike(one: Tensor, other: Tensor, size: Tensor) -> bool:
    """Whether two results are the same but for rounding; size: of what a difference is compared with."""
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * size)
