"""Experts that a class of transformers holds in fused tensors, as linears: the same function, for a pass to work on.

transformers runs the experts of a layer in one module, whose tensors hold those of all of them: [experts, N, K], or
[experts, K, N], with gate above up or row by row in turn. Such a module is found by its tensors; how they lie is said
by its class, or tried. It gets a linear for each expert and part, and what it computes is compared with its own forward
on a small twin, so nothing about a type is listed.

Inside the module the linears of expert 3 are called 3.gate_proj, 3.up_proj and 3.down_proj.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.sparse import Routing, routing_of

GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"
JOINED = "gate_up_proj"
TRIED_EXPERTS, TRIED_WIDTH, TRIED_INNER, TRIED_TOKENS = 3, 6, 4, 7
TOLERANCE = 1e-5
SPREADS = (1.0, 30.0)
"""Of the values that are tried: large ones meet the limits that some activations have."""

Half = Literal["all", "first", "second", "even", "odd"]
"""Which rows of a tensor are a linear's: all; the first or the second half; every second one, from 0 or from 1."""


@dataclass(frozen=True)
class Place:
    """Where an expert's weight or bias lies in a fused tensor."""

    tensor: str
    half: Half = "all"
    transposed: bool = False
    """Whether the tensor holds [K, N] of each expert."""

    def cut(self, block: Tensor) -> Tensor:
        """The weight [N, K] or bias [N] in one expert's part of the tensor."""
        rows = block.t() if self.transposed else block
        return rows[rows_of_half(self.half, rows.shape[0])]


def rows_of_half(half: Half, count: int) -> slice:
    """Rows of a half among `count`."""
    if half in ("even", "odd"):
        return slice(int(half == "odd"), count, 2)
    middle = count // 2
    return {"all": slice(0, count), "first": slice(0, middle)}.get(half, slice(middle, count))


@dataclass(frozen=True)
class FusedExperts:
    """How a module holds its experts."""

    count: int
    width: int
    inner: int
    places: dict[str, Place]
    """By the name in an expert: gate_proj.weight, ..."""

    @property
    def gated(self) -> bool:
        """Whether an expert has a gate beside up."""
        return f"{GATE}.weight" in self.places

    @property
    def interleaved(self) -> bool:
        """Whether rows of gate and up lie in turn."""
        return self.places[f"{UP}.weight"].half == "odd"

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an expert's weight or bias."""
        linear, _, leaf = name.rpartition(".")
        rows, columns = (self.width, self.inner) if linear == DOWN else (self.inner, self.width)
        return (rows, columns) if leaf == "weight" else (rows,)


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
            yield FusedExperts(int(down.shape[0]), int(width), int(inner), places)


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


class Expert(nn.Module):
    """The linears of one expert."""

    def __init__(self, fused: FusedExperts) -> None:
        super().__init__()
        for linear in (GATE, UP, DOWN) if fused.gated else (UP, DOWN):
            rows, columns = fused.shape(f"{linear}.weight")
            self.add_module(linear, nn.Linear(columns, rows, bias=f"{linear}.bias" in fused.places))


class LinearExperts(nn.Module):
    """What takes the place of a module's forward: the same sums, of a linear for each expert.

    It is the first base of a class whose other base is the module's own, from which it has the activation.
    """

    fused: FusedExperts
    all_read: bool = False
    """Whether every expert's linears are called with all tokens; what comes out is the same."""
    sent: tuple[int, ...] = ()
    """How many tokens were sent to each expert in the last forward in which all of them read all."""

    def forward(self, hidden: Tensor, *routing: Any, **named: Any) -> Tensor:
        """The weighted sum of the experts' outputs.

        routing: chosen experts [tokens, k] and their weights; without them hidden has a block of tokens for each
        expert.
        """
        tokens = hidden.reshape(-1, hidden.shape[-1])
        if hidden.is_meta:
            return self._outputs(tokens).view_as(hidden)
        sent = self._routing(tokens, [*routing, *named.values()])
        if self.all_read:
            self.sent = tuple(
                sent.rows(expert).stop - sent.rows(expert).start for expert in range(self.fused.count)
            )
            self._outputs(tokens)
        result = torch.zeros_like(tokens)
        for expert in range(self.fused.count):
            rows = sent.rows(expert)
            self._add(expert, tokens[sent.token[rows]], sent, rows, result)
        self._add_unchanged(tokens, sent, result)
        return result.view_as(hidden)

    def _routing(self, tokens: Tensor, given: list[Any]) -> Routing:
        tensors = [value for value in given if isinstance(value, Tensor)]
        if tensors:
            chosen = next(value for value in tensors if not value.is_floating_point())
            weights = next(value for value in tensors if value.is_floating_point())
            return routing_of(chosen.reshape(len(tokens), -1), weights, self.fused.count)
        if self.all_read:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"experts.few_tokens is all, but {type(self).__bases__[1].__name__} gives an expert only the tokens "
                "that are sent to it, already weighted",
                "Write experts.few_tokens: rtn, or leave it out.",
            )
        full = tokens.any(dim=-1)  # a token that is not sent to the expert is zero in its block
        counts = full.view(self.fused.count, -1).sum(dim=1)
        bounds = (0, *torch.cumsum(counts, dim=0).tolist())
        return Routing(full.nonzero()[:, 0], tokens.new_ones(int(bounds[-1])), bounds)

    def activated(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """What the last linear of an expert reads, of what the first ones make."""
        own: Any = self
        if gate is None:
            result: Tensor = own.act_fn(up)
        elif not hasattr(own, "_apply_gate"):
            result = own.act_fn(gate) * up
        else:
            joined = (
                torch.stack((gate, up), -1).flatten(-2)
                if self.fused.interleaved
                else torch.cat((gate, up), -1)
            )
            result = own._apply_gate(joined)
        return result

    def _outputs(self, tokens: Tensor) -> Tensor:
        """Calls the linears of every expert with all tokens, so that whoever watches them sees it; the sum."""
        result = torch.zeros_like(tokens)
        for expert in range(self.fused.count):
            if f"{expert}" in self._modules:  # in the skeleton one stands for all of them
                result = result + self._output(expert, tokens, watched=True)
        return result

    def _output(self, expert: int, tokens: Tensor, *, watched: bool) -> Tensor:
        parts: Any = self.get_submodule(f"{expert}")

        def run(linear: str, read: Tensor) -> Tensor:
            part = getattr(parts, linear)
            made: Tensor = part(read) if watched else part.forward(read)
            return made

        gate = run(GATE, tokens) if self.fused.gated else None
        output = run(DOWN, self.activated(gate, run(UP, tokens)))
        norm: Any = getattr(self, "post_expert_norm", None)
        return output if norm is None else norm(output)  # type: ignore[no-any-return]

    def _add(self, expert: int, read: Tensor, sent: Routing, rows: slice, result: Tensor) -> None:
        """An expert without tokens runs as well: its linears are seen to read none."""
        output = self._output(expert, read, watched=not self.all_read) * sent.weight[rows, None]
        result.index_add_(0, sent.token[rows], output.to(result.dtype))

    def _add_unchanged(self, tokens: Tensor, sent: Routing, result: Tensor) -> None:
        """Some models have experts that do nothing, numbered behind the others."""
        if getattr(self, "identity_expert", None) is None:
            return
        rows = slice(sent.bounds[self.fused.count], len(sent.token))
        output = tokens[sent.token[rows]] * sent.weight[rows, None]
        result.index_add_(0, sent.token[rows], output.to(result.dtype))


def with_one_expert(module: nn.Module, fused: FusedExperts) -> None:
    """Takes the fused tensors out of a module and gives it the linears of expert 0, which stands for all of them."""
    own = type(module)
    module.__class__ = type(f"Linear{own.__name__}", (LinearExperts, own), {})
    for tensor in {place.tensor for place in fused.places.values()}:
        del module._parameters[tensor]
    changed: Any = module
    changed.fused = fused
    _add_experts(module, fused, 1)


def with_all_experts(layer: nn.Module) -> None:
    """Gives the modules of a layer that have the linears of one expert those of the others."""
    for module in list(layer.modules()):
        if isinstance(module, LinearExperts):
            _add_experts(module, module.fused, module.fused.count)


def _add_experts(module: nn.Module, fused: FusedExperts, count: int) -> None:
    with torch.device("meta"):
        for expert in range(count):
            if f"{expert}" not in module._modules:
                module.add_module(f"{expert}", Expert(fused))
    module.requires_grad_(False).eval()


@contextmanager
def all_reading(layer: nn.Module, on: bool) -> Iterator[None]:
    """Within it, if it is on, the linears of every expert of a layer are called with all tokens."""
    found = [module for module in layer.modules() if on and isinstance(module, LinearExperts)]
    for module in found:
        module.all_read = True
    try:
        yield
    finally:
        for module in found:
            module.all_read = False


def passes_scales(experts: LinearExperts) -> bool:
    """Whether scales of what `up` makes come out behind the activation as they went in."""
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn((TRIED_TOKENS, experts.fused.inner), generator=generator) for _ in range(2))
    scales = torch.rand(experts.fused.inner, generator=generator) * 1.5 + 0.5
    for spread in SPREADS:
        gates = gate * spread if experts.fused.gated else None
        one, other = (experts.activated(gates, up * spread * by) for by in (1.0, scales))
        if not torch.allclose(one * scales, other, rtol=TOLERANCE, atol=TOLERANCE):
            return False
    return True


# the small twin


def _computes_the_same(module: nn.Module, fused: FusedExperts) -> bool:
    """Whether linears make what the module's own forward makes, on small tensors in the places of its own.

    The module is given each token with the experts that are chosen for it, or a block of tokens for each expert.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn((TRIED_TOKENS, TRIED_WIDTH), generator=generator)
    numbers = TRIED_EXPERTS + min(_further(module, fused), 1)
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
    further = _further(module, fused)
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


def _further(module: nn.Module, fused: FusedExperts) -> int:
    """How many experts that do nothing are numbered behind the others."""
    first = _first(module)
    return 0 if first is None else first.shape[0] - fused.count


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
