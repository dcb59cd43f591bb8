"""Where scales of a layer's input channels fold away, found by trying: scales are kept where the function stays.

The layer has its real weights. A candidate (tracing.py) is a norm, or a linear with a rule which of its rows makes
which channel; it is tried with random scales on random hidden states, and holds if the layer makes of them what it made
before.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_args

import torch
from torch import Tensor, nn

from quantizer.decoder.architecture import Candidate, RowRule
from quantizer.decoder.folding import FoldPlace, rows_of
from quantizer.decoder.generic import GenericLayer
from quantizer.decoder.linear_experts import LinearExperts, passes_scales
from quantizer.decoder.stream import Stream

TOKENS = 6
TOLERANCE = 1e-5
RULES: tuple[RowRule, ...] = get_args(RowRule)


def find_folds(
    layer: GenericLayer, candidates: tuple[Candidate, ...], config: Any, stream: Stream
) -> tuple[FoldPlace, ...]:
    """The places of a layer in float32, in the order of its stages; at most one for each input."""
    first = next(value for _, value in layer.parameters())
    generator = torch.Generator().manual_seed(0)
    hidden = stream.random(TOKENS, generator).to(first)
    expected = layer.forward(hidden)
    found: dict[tuple[str, ...], FoldPlace] = {}
    for candidate in candidates:
        if candidate.readers in found:
            continue
        experts = layer.experts_of(candidate.source)
        tried = (
            possible_places(layer, candidate, config) if experts is None else _in_expert(candidate, experts)
        )
        for place in tried:
            if experts is not None or _stays(layer, place, hidden, expected, generator):
                found[candidate.readers] = place
                break
    return tuple(found.values())


def _in_expert(candidate: Candidate, experts: LinearExperts) -> Iterator[FoldPlace]:
    """Tried on the activation alone: an expert of the layer is given no token, or few."""
    if passes_scales(experts):
        rows = torch.arange(experts.fused.inner)
        yield FoldPlace("linear", candidate.source, candidate.readers, rows, None)


def possible_places(layer: GenericLayer, candidate: Candidate, config: Any) -> Iterator[FoldPlace]:
    """What a candidate can be, by its shapes."""
    source, readers = candidate.source, candidate.readers
    inputs = layer.linear(readers[0]).in_features
    if candidate.kind == "norm":
        if layer.module(source).get_parameter("weight").numel() != inputs:
            return
        routers = layer.routers(inputs) if any(map(layer.experts_of, readers)) else ()
        for all_readers in dict.fromkeys((readers, (*readers, *routers))):
            yield FoldPlace("norm", source, all_readers, None, None)
            yield FoldPlace("norm", source, all_readers, None, None, unit_offset=True)
        return
    outputs, tried = layer.linear(source).out_features, set()
    for rule in RULES:
        try:
            rows = rows_of(rule, inputs, outputs, config)
        except Exception:  # noqa: BLE001 - heads that do not fit, none, or another number in each layer
            continue
        if rows.min() >= 0 and rows.max() < outputs and tuple(rows.tolist()) not in tried:
            tried.add(tuple(rows.tolist()))
            yield FoldPlace("linear", source, readers, rows, None)


def _stays(
    layer: GenericLayer, place: FoldPlace, hidden: Tensor, expected: Tensor, generator: torch.Generator
) -> bool:
    """Whether the layer makes the same with random scales folded in; its weights are put back."""
    inputs = layer.linear(place.readers[0]).in_features
    scales = torch.rand(inputs, generator=generator).to(hidden) * 1.5 + 0.5
    if place.rows is not None:  # channels that come from one row share a scale
        by_row = torch.rand(int(place.rows.max()) + 1, generator=generator).to(hidden) * 1.5 + 0.5
        scales = by_row[place.rows.to(hidden.device)]
    source = layer.module(place.source)
    readers = [layer.module(name) for name in place.readers]
    others = [reader.get_parameter("weight") for reader in readers if not isinstance(reader, nn.Linear)]
    changed = [source.get_parameter("weight"), *others]
    if getattr(source, "bias", None) is not None:
        changed.append(source.get_parameter("bias"))
    kept = [value.clone() for value in changed]

    def scaled(_linear: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * scales, *args[1:])  # as if its weight were scaled, of which there is no second copy

    with ExitStack() as stack:
        for value, before in zip(changed, kept, strict=True):
            stack.callback(value.copy_, before)
        for reader in readers:
            if isinstance(reader, nn.Linear):
                stack.callback(reader.register_forward_pre_hook(scaled).remove)
        _divide(source, place, scales)
        for weight in others:
            weight.mul_(scales)
        made = layer.forward(hidden)
    difference, size = (made - expected).abs().max(), (expected - hidden).abs().max()
    return bool(difference <= TOLERANCE * size)


def _divide(source: Any, place: FoldPlace, scales: Tensor) -> None:
    offset = 1.0 if place.unit_offset else 0.0
    if place.rows is None:
        source.weight.add_(offset).div_(scales).sub_(offset)
        divisor = scales
    else:
        divisor = torch.ones(source.weight.shape[0], dtype=scales.dtype, device=scales.device)
        divisor[place.rows.to(scales.device)] = scales
        source.weight.div_(divisor[:, None])
    if getattr(source, "bias", None) is not None:
        source.bias.div_(divisor)
