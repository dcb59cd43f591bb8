"""Finds modules that hold experts in fused tensors, and how they hold them.

A tensor holds [experts, N, K] or [experts, K, N], with gate above up or row by row in turn. Such a module is found by
its tensors; how they lie is said by its class, or tried: what linears make is compared with the module's own forward,
on a small twin. So nothing about a type is listed.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantizer.decoder.fused_experts import DOWN, GATE, UP, FusedExperts, Half, Place
from quantizer.decoder.linear_experts import (
    SPREADS,
    TOLERANCE,
    TRIED_TOKENS,
    LinearExperts,
    with_all_experts,
    with_one_expert,
)

JOINED = "gate_up_proj"
TRIED_EXPERTS, TRIED_WIDTH, TRIED_INNER = 3, 6, 4


def find_experts(layers: Sequence[nn.Module]) -> tuple[list[dict[str, FusedExperts]], str]:
    """What holds experts in each layer, by names in the layer; each module gets linears for one expert.

    Beside them, what holds experts and uses them in a way that is not known: where, and its class; "" without any.
    """
    found: list[dict[str, FusedExperts]] = []
    known: dict[tuple[Any, ...], FusedExperts | None] = {}
    for index, layer in enumerate(layers):
        found.append({})
        for name, module in fused_modules(layer).items():
            shapes = (tuple(value.shape) for value in module._parameters.values() if value is not None)
            kind = (type(module), *shapes)
            if kind not in known:
                known[kind] = described(module)
            if (fused := known[kind]) is not None:
                found[-1][name] = fused
                with_one_expert(module, fused)
        if odd := _unknown(layer):
            return (
                found,
                f"{index} holds experts in one fused tensor ({odd[0]}), and how {odd[1]} uses it is not known",
            )
    return found, ""


def _unknown(layer: nn.Module) -> tuple[str, str] | None:
    """A tensor of experts that has no linears, and the class of its module; classes say so in their names."""
    for name, module in layer.named_modules():
        tensors = [leaf for leaf, value in module._parameters.items() if value is not None]
        known = isinstance(module, (nn.Linear, LinearExperts))
        if tensors and not known and "expert" in type(module).__name__.lower():
            return f"{name}.{tensors[0]}", type(module).__name__
    return None


def fused_modules(layer: nn.Module) -> dict[str, nn.Module]:
    """The modules of a layer that hold experts in fused tensors, by name."""
    return {name: module for name, module in layer.named_modules() if _first(module) is not None}


def described(module: nn.Module) -> FusedExperts | None:
    """How a module that `fused_modules` found holds its experts; None where it computes something else of them."""
    return next((one for one in _possible(module) if _computes_the_same(module, one)), None)


def _first(module: nn.Module) -> Tensor | None:
    """The fused tensor of gate and up, or of up alone."""
    tensors = module._parameters
    first, down = tensors.get(JOINED, tensors.get(UP)), tensors.get(DOWN)
    fits = first is not None and down is not None and first.ndim == down.ndim == 3
    return first if fits else None


def _possible(module: nn.Module) -> Iterator[FusedExperts]:
    """What its tensors can be by their shapes; what its class says comes first."""
    first, down = _first(module), module._parameters[DOWN]
    assert first is not None
    assert down is not None
    gated = module._parameters.get(JOINED) is not None
    said = (bool(getattr(module, "is_transposed", False)), not getattr(module, "is_concatenated", True))
    ways = sorted(itertools.product((False, True), repeat=2), key=lambda way: way != said)
    for transposed, interleaved in ways if gated else [way for way in ways if not way[1]]:
        width, inner = down.shape[:0:-1] if transposed else down.shape[1:]
        rows, columns = (inner * (1 + gated), width)
        if tuple(first.shape[1:]) == ((columns, rows) if transposed else (rows, columns)):
            places = _places(module, gated, transposed, interleaved)
            count = int(down.shape[0])
            yield FusedExperts(count, int(width), int(inner), places, int(first.shape[0]) - count)


def _places(module: nn.Module, gated: bool, transposed: bool, interleaved: bool) -> dict[str, Place]:
    halves: dict[str, tuple[str, Half]] = {DOWN: (DOWN, "all"), UP: (UP, "all")}
    if gated:
        halves[GATE] = (JOINED, "even" if interleaved else "first")
        halves[UP] = (JOINED, "odd" if interleaved else "second")
    places: dict[str, Place] = {}
    for linear in (GATE, UP, DOWN) if gated else (UP, DOWN):
        tensor, half = halves[linear]
        places[f"{linear}.weight"] = Place(tensor, half, transposed)
        if module._parameters.get(f"{tensor}_bias") is not None:
            places[f"{linear}.bias"] = Place(f"{tensor}_bias", half)
    return places


# the small twin


def _computes_the_same(module: nn.Module, fused: FusedExperts) -> bool:
    """Whether linears make what the module's own forward makes, on small tensors in the places of its own.

    The module is given each token with the experts that are chosen for it, or a block of tokens for each expert.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn((TRIED_TOKENS, TRIED_WIDTH), generator=generator)
    numbers = TRIED_EXPERTS + min(fused.idle, 1)
    chosen = torch.stack([torch.randperm(numbers, generator=generator)[:2] for _ in range(TRIED_TOKENS)])
    weights = torch.rand((TRIED_TOKENS, 2), generator=generator)
    blocks = tokens.repeat(TRIED_EXPERTS, 1) * (torch.arange(TRIED_EXPERTS * TRIED_TOKENS) % 2)[:, None]
    return any(
        all(
            _makes_the_same(_twin(module, fused, generator), fused, tried * spread, *beside)
            for spread in SPREADS
        )
        for tried, *beside in ((tokens, chosen, weights), (blocks,))
    )


def _makes_the_same(twin: nn.Module, fused: FusedExperts, tokens: Tensor, *routing: Tensor) -> bool:
    """Changes the twin; its own forward runs first."""
    own: Any = getattr(type(twin).forward, "__wrapped__", type(twin).forward)
    try:
        expected = own(twin, tokens, *routing)
        tensors = {name: value for name, value in twin.named_parameters() if "." not in name}
        with_one_expert(twin, FusedExperts(TRIED_EXPERTS, TRIED_WIDTH, TRIED_INNER, fused.places))
        with_all_experts(twin)
        for expert, (name, place) in itertools.product(range(TRIED_EXPERTS), fused.places.items()):
            linear, _, leaf = name.rpartition(".")
            weight = place.cut(tensors[place.tensor][expert])
            twin.get_submodule(f"{expert}.{linear}")._parameters[leaf] = nn.Parameter(
                weight, requires_grad=False
            )
        made = twin(tokens, *routing)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return torch.allclose(made, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max()))


def _twin(module: nn.Module, fused: FusedExperts, generator: torch.Generator) -> nn.Module:
    """A copy with few experts of a small width, all of its numbers random."""
    config: Any = getattr(module, "config", None)
    twin = copy.deepcopy(module, {id(config): config})
    further = fused.idle
    sizes = {fused.inner * 2: TRIED_INNER * 2, fused.inner: TRIED_INNER, fused.width: TRIED_WIDTH}
    counts = {fused.count: TRIED_EXPERTS, fused.count + further: TRIED_EXPERTS + min(further, 1)}
    for part in twin.modules():
        for name, value in vars(part).items():
            if type(value) is int and not name.startswith("_"):
                vars(part)[name] = (counts if "experts" in name else sizes).get(value, value)
        for name, tensor in part._parameters.items():
            if tensor is not None:
                shape = _small_shape(name, tensor, fused, counts, sizes)
                values = torch.randn(shape, generator=generator)
                part._parameters[name] = nn.Parameter(values, requires_grad=False)
    return twin


def _small_shape(
    name: str, tensor: Tensor, fused: FusedExperts, counts: dict[int, int], sizes: dict[int, int]
) -> tuple[int, ...]:
    """By what a tensor is; widths may be equal, so a fused one is not told by its numbers."""
    known = {place.tensor: (linear, place) for linear, place in fused.places.items()}
    if name not in known:
        return tuple(sizes.get(size, size) for size in tensor.shape)
    linear, place = known[name]
    small = FusedExperts(TRIED_EXPERTS, TRIED_WIDTH, TRIED_INNER, fused.places)
    rows, *columns = small.shape(linear)
    rows *= 1 if place.half == "all" else 2
    inside = (*columns, rows) if place.transposed else (rows, *columns)
    return counts.get(tensor.shape[0], TRIED_EXPERTS), *inside
