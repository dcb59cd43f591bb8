"""What a rotation needs to know of a model that is not in the table of architectures: found, and tried.

Looking at a layer (decoder/tracing.py) tells what reads the residual stream and what adds to it. That a rotation leaves
the function as it is, is tried with the arithmetic that will rotate the model: what comes before the layers, one layer
of each kind and what comes behind them are computed on random numbers, as they are and with a reflection in the place
of the rotation. Weights of layers are random, too, so nothing but small tensors is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from quantizer.algorithms.quarot.rotation import (
    folded_bias,
    fuse_norm,
    neutral_weight,
    norm_weight,
    rotate_stream,
    rotate_values,
)
from quantizer.algorithms.quarot.rotation_layout import HeadSite, LayerLayout, ModelLayout, NormKind, NormSite
from quantizer.decoder.architecture import FoundLayer, StreamRead
from quantizer.decoder.found_folds import possible_places
from quantizer.decoder.generic import GenericLayer
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel

TOKENS = 6
TOLERANCE = 1e-5
PERIOD = 999_983
"""A prime: random numbers of large weights repeat after as many."""
WITHOUT_WEIGHT = ""
NO_ROWS = LayerLayout(norms=(), writers=(), attention=None, down=None, down_width=0)


class Reflection:
    """x -> x - 2 (x v) v with |v| = 1 and sum(v) = 0: orthogonal, its own inverse, and it keeps the mean."""

    def __init__(self, size: int) -> None:
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
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


@dataclass(frozen=True)
class _Kind:
    """Layers that are built alike."""

    found: FoundLayer
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    classes: tuple[type, ...]


class FoundRotation:
    """The residual stream of a model.

    Attributes: model (its layout; `obstacle` says why it cannot be rotated, if so), layers (of each layer).
    """

    def __init__(self, model: DecoderLayout) -> None:
        self._layout, self._model = model, DecoderModel(model, torch.device("cpu"))
        self._turn = Reflection(model.width)
        self._obstacle: str | None = None
        with torch.inference_mode():
            self.layers = self._layers()
            self.model = self._found_model()
            if self._obstacle is None:
                self._obstacle = self._around_obstacle()
        self.model = replace(self.model, obstacle=self._obstacle)
        del self._around  # it holds the tensors outside the layers

    # the layers

    def _layers(self) -> tuple[LayerLayout, ...]:
        known: dict[_Kind, LayerLayout] = {}
        layers = []
        for index, module in enumerate(self._layout.skeleton.layers):
            kind = _Kind(
                self._layout.found(index),
                tuple(self._layout.layer_shapes(index).items()),
                tuple(type(part) for part in module.modules()),
            )
            if kind not in known:
                known[kind] = NO_ROWS if self._obstacle else self._layer(index)
            layers.append(known[kind])
        return tuple(layers)

    def _layer(self, index: int) -> LayerLayout:
        """Tries a layer; sets the obstacle where its function does not stay."""
        found, weights = self._layout.found(index), self._random_weights(index)
        layer = self._made(index, weights)
        sites = [_norm_site(layer, read, self._layout.width) for read in found.reads]
        norms = tuple(site for site in sites if site is not None)
        layout = replace(NO_ROWS, norms=norms, writers=found.writers)
        suits = None not in sites and self._streams(layout, layer)
        for heads in (*self._heads(layer, found), None) if suits else ():
            tried = replace(layout, attention=heads)
            if self._stays(index, weights, tried):
                return tried
        forbids = self._forbids(index, weights, layout) if suits else None
        name, kind = f"{self._layout.layers_name}.{index}", type(self._layout.skeleton.layers[index]).__name__
        self._obstacle = (
            f"{forbids} scales the residual stream, or what is added to it, channel by channel, so the stream cannot "
            "be rotated"
            if forbids
            else f"{name} ({kind}) does not compute the same on a rotated residual stream"
        )
        return NO_ROWS

    def _stays(self, index: int, weights: dict[str, Tensor], layout: LayerLayout) -> bool:
        """Whether a layer of these weights makes the same of a turned stream, turned."""
        hidden = _random((1, TOKENS, self._layout.width), 1)
        expected = self._made(index, weights).forward(hidden)
        turned = self._made(index, self._turned(weights, layout)).forward(self._turn.apply(hidden))
        return _alike(turned, self._turn.apply(expected), (expected - hidden).abs().max())

    def _forbids(self, index: int, weights: dict[str, Tensor], layout: LayerLayout) -> str | None:
        """The module that forbids a rotation: without its weights, and those like it, the function would stay."""
        layer = self._made(index, weights)
        vectors: dict[str, dict[str, Tensor]] = {}
        for name, value in weights.items():
            owner = name.rpartition(".")[0]
            module = layer.module(owner) if owner else None
            if value.shape == (self._layout.width,) and not isinstance(module, nn.Linear):
                plus_one = module is not None and norm_kind(module, len(value)) == "rms_plus_one"
                zero = plus_one or name.endswith("bias")
                vectors.setdefault(owner or name, {})[name] = (
                    torch.zeros_like(value) if zero else torch.ones_like(value)
                )
        neutral = {name: value for one in vectors.values() for name, value in one.items()}
        if not self._stays(index, {**weights, **neutral}, layout):
            return None
        own = (
            (suspect, {name: weights[name] if name in names else value for name, value in neutral.items()})
            for suspect, names in vectors.items()
        )
        return next(
            (suspect for suspect, one in own if not self._stays(index, {**weights, **one}, layout)), None
        )

    def _made(self, index: int, weights: dict[str, Tensor]) -> GenericLayer:
        stored = {name: self._layout.transposed(index, name, value) for name, value in weights.items()}
        layer = self._model.layer(index, stored)
        assert isinstance(layer, GenericLayer)
        return layer

    def _random_weights(self, index: int) -> dict[str, Tensor]:
        """Of layer `index`, matrices as [N, K]."""
        shapes = self._layout.layer_shapes(index)
        made = {name: _random(shape, number) for number, (name, shape) in enumerate(shapes.items())}
        return {name: self._layout.transposed(index, name, value) for name, value in made.items()}

    def _streams(self, layout: LayerLayout, layer: GenericLayer) -> bool:
        """Whether what reads and writes is as wide as the stream."""
        width, readers = self._layout.width, [name for norm in layout.norms for name in norm.readers]
        return all(layer.linear(name).in_features == width for name in readers) and all(
            layer.linear(name).out_features == width for name in layout.writers
        )

    def _turned(self, weights: dict[str, Tensor], layout: LayerLayout) -> dict[str, Tensor]:
        changed = dict(weights)
        for norm in layout.norms:
            fuse_norm(changed, norm)
        rotate_stream(changed, layout, self._turn)
        if layout.attention is not None:
            rotate_values(changed, layout.attention, Reflection(layout.attention.head_dim))
        return {name: value.float() for name, value in changed.items()}

    def _heads(self, layer: GenericLayer, found: FoundLayer) -> Iterator[HeadSite]:
        """Where the heads' values may be, by shapes: between a linear and one that writes what is made of them."""
        heads = self._layout.number("num_attention_heads") or 0
        for candidate in found.candidates:
            if (
                candidate.kind == "norm"
                or len(candidate.readers) != 1
                or candidate.readers[0] not in found.writers
            ):
                continue
            inputs = layer.linear(candidate.readers[0]).in_features
            if heads < 1 or inputs % heads or inputs == heads:
                continue
            for place in possible_places(layer, candidate, self._layout.config):
                assert place.rows is not None
                size = inputs // heads
                starts = dict.fromkeys(int(place.rows[head * size]) for head in range(heads))
                yield HeadSite(place.source, tuple(starts), candidate.readers[0], heads, size)

    # what is around them

    @cached_property
    def _around(self) -> Any:
        return self._model.around()

    def _found_model(self) -> ModelLayout:
        layout, skeleton = self._layout, self._layout.skeleton
        outside = layout.outside_shapes()
        hidden = _random((1, TOKENS, layout.width), 2)
        before, behind = self._around.norms_around(hidden)
        if before and self._obstacle is None:
            self._obstacle = (
                f"{layout.stored_name(before[0])} scales the embeddings, channel by channel, before they enter the "
                "residual stream, so the stream cannot be rotated"
            )
        tables = (name for name, shape in outside.items() if len(shape) == 2 and shape[1] == layout.width)
        head, last = layout.head_name(), behind[-1] if behind else None
        kind: NormKind | None = "layer"
        if last is not None:
            kind = norm_kind(skeleton.causal.get_submodule(last), layout.width)
        if kind is None and self._obstacle is None:
            self._obstacle = f"{last} is a norm of a kind that cannot be folded into the head"
        return ModelLayout(
            width=layout.width,
            tables=(layout.embedding_name(), *tables),
            final_norm=NormSite(
                layout.stored_name(last) if last else WITHOUT_WEIGHT, kind or "layer", (head,)
            ),
            head=head,
            tied=head == layout.embedding_name(),
            layer=self.layers[0],
        )

    def _around_obstacle(self) -> str | None:
        """Tries what is before and behind the layers."""
        width, turn, site = self._layout.width, self._turn, self.model.final_norm
        rows, tokens = _random((TOKENS, width), 3), torch.arange(TOKENS)[None]
        hidden, head = _random((1, TOKENS, width), 4), _random((TOKENS, width), 5)
        plain, turned = self._around, self._model.around(self._outside_turned)
        one, other = plain.embed(rows, tokens), turned.embed(turn.apply(rows), tokens)
        if not _alike(other, turn.apply(one), one.abs().max()):
            return "what comes before its layers does not compute the same with rotated embeddings"
        weight = self._final_weight(site)
        scaled = head if weight is None else head * norm_weight(site.kind, weight).float()
        one = plain.logits(plain.final(hidden), 0, head)
        other = turned.logits(turned.final(turn.apply(hidden)), 0, turn.apply(scaled))
        if not _alike(other, one, one.abs().max()):
            return "what comes behind its layers does not compute the same on a rotated residual stream"
        return None

    def _final_weight(self, site: NormSite) -> Tensor | None:
        name = f"{site.name}.weight"
        return self._layout.reader.tensor(name) if name in self._layout.reader.tensors else None

    def _outside_turned(self, name: str, value: Tensor) -> Tensor:
        """A parameter outside the layers as the rotation leaves it."""
        stored, site = self._layout.stored_name(name), self.model.final_norm
        if stored in self.model.tables:
            return self._turn.apply(value.double()).float()
        if stored == f"{site.name}.weight":
            return neutral_weight(site.kind, value.float())
        if stored == f"{site.name}.bias":
            weight = self._final_weight(site)
            assert weight is not None
            return self._turn.apply(folded_bias(site.name, norm_weight(site.kind, weight), value)).float()
        return value


def norm_kind(module: nn.Module, width: int) -> NormKind | None:
    """What a module does with x [..., width], by trying; None for what is no norm of a kind that is known."""
    weight = module._parameters.get("weight")
    if weight is None or weight.shape != (width,):
        return None
    generator = torch.Generator().manual_seed(0)
    x, scale, bias = (torch.randn(shape, generator=generator) for shape in ((3, width), (width,), (width,)))
    tried = type(module).__new__(type(module))
    tried.__dict__.update(module.__dict__)
    has_bias = module._parameters.get("bias") is not None
    held = {"weight": scale, "bias": bias} if has_bias else {"weight": scale}
    tried._parameters = {
        name: None if value is None else nn.Parameter(held[name], requires_grad=False)
        for name, value in module._parameters.items()
    }
    try:
        made = tried.forward(x) - (bias if has_bias else 0.0)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None
    rms = x / x.square().mean(-1, keepdim=True).sqrt()
    centred = torch.nn.functional.layer_norm(x, (width,))
    expected: dict[NormKind, Tensor] = {
        "rms": rms * scale,
        "rms_plus_one": rms * (1.0 + scale),
        "layer": centred * scale,
    }
    return next((kind for kind, value in expected.items() if torch.allclose(made, value, 1e-3, 1e-3)), None)


def _norm_site(layer: GenericLayer, read: StreamRead, width: int) -> NormSite | None:
    if read.norm is None:
        return NormSite(WITHOUT_WEIGHT, "layer", read.readers)
    kind = norm_kind(layer.module(read.norm), width)
    return None if kind is None else NormSite(read.norm, kind, read.readers)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers that differ by row and column, in float32, cheap for large shapes; those of a matrix keep sizes."""
    count = 1
    for size in shape:
        count *= size
    drawn = torch.randn(min(count, PERIOD), generator=torch.Generator().manual_seed(seed))
    if len(shape) < 2:
        drawn = 1.0 + 0.3 * drawn
    elif len(shape) == 2:
        drawn = drawn / shape[1] ** 0.5
    return drawn.repeat(-(-count // max(1, len(drawn))))[:count].reshape(shape)


def _alike(one: Tensor, other: Tensor, size: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * size)
