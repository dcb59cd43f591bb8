"""What the linears of one layer read, and on which others that rests: seen in a forward without values.

The layer runs on the meta device, once. Hooks tell which linears run, in which order, and which of them are given the
same tensor; the graph that autograd keeps tells which of them a linear's input was made from.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from quantizer.decoder.architecture import Candidate, FoundLayer, SharedInput, Stage, StreamRead


@dataclass
class _Seen:
    """One linear in the forward."""

    name: str
    read: Tensor
    """Its input; it is kept, so that no other tensor takes its place in memory."""
    made: Any = None
    """The node of autograd's graph that its output comes from."""
    runs: int = 1


@dataclass(frozen=True)
class _Normed:
    """A module that has a weight for each channel, in the forward."""

    name: str
    read: Any
    """The node of autograd's graph that its input comes from."""
    made: Tensor


@dataclass(frozen=True)
class _Router:
    """A module that is no linear and has a matrix, in the forward: it chooses experts."""

    name: str
    read: Tensor


@dataclass
class _Watch:
    seen: dict[str, _Seen] = field(default_factory=dict)
    normed: list[_Normed] = field(default_factory=list)
    routers: list[_Router] = field(default_factory=list)

    def before(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if name in self.seen:
                self.seen[name].runs += 1
            elif args:
                self.seen[name] = _Seen(name, args[0])

        return hook

    def behind(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            if name in self.seen:
                self.seen[name].made = output.grad_fn

        return hook

    def norm(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
                self.normed.append(_Normed(name, args[0].grad_fn, output))

        return hook

    def router(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            read = next(iter((*args, *named.values())), None)
            if isinstance(read, Tensor):
                self.routers.append(_Router(name, read))

        return hook


def trace(layer: nn.Module, forward: Callable[[], Any]) -> tuple[FoundLayer, Any]:
    """Watches a forward of the layer, whose hidden states must require gradients; what it found, and the output.

    A stage is what rests on linears of earlier stages only; its inputs are in the order in which they are read. A
    linear that does not run, or runs more than once, is in no stage: it has no input of its own.
    """
    watch = _Watch()
    with ExitStack() as stack:
        for name, module in layer.named_modules():
            if is_linear(module):
                stack.callback(module.register_forward_pre_hook(watch.before(name)).remove)
                stack.callback(module.register_forward_hook(watch.behind(name)).remove)
            elif (weight := getattr(module, "weight", None)) is not None and weight.ndim == 1:
                stack.callback(module.register_forward_hook(watch.norm(name)).remove)
            elif weight is not None and weight.ndim == 2:
                hook = module.register_forward_pre_hook(watch.router(name), with_kwargs=True)
                stack.callback(hook.remove)
        output = forward()
    first = output[0] if isinstance(output, (tuple, list)) else output
    end = getattr(first, "grad_fn", None)
    seen = [one for one in watch.seen.values() if one.runs == 1]
    return _found(seen, watch, end), output


def is_linear(module: nn.Module) -> bool:
    """Whether a module computes x W' + b of its own weight and bias, whatever its class is called."""
    if isinstance(module, Conv1D):
        return True
    if not isinstance(module, nn.Linear):
        return False
    return type(module).forward is nn.Linear.forward or _computes_a_product(module)


def _computes_a_product(module: nn.Linear) -> bool:
    """Tried on a small weight in the module's place, since the class has a forward of its own."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 5), (3, 5), (3,)))
    tried = type(module).__new__(type(module))
    tried.__dict__.update(module.__dict__)
    tried._parameters = {
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": None if module.bias is None else nn.Parameter(bias, requires_grad=False),
    }
    expected = functional.linear(x, weight, None if module.bias is None else bias)
    try:
        return torch.allclose(tried.forward(x), expected)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False


def _found(seen: list[_Seen], watch: _Watch, end: Any) -> FoundLayer:
    makers = {one.made: number for number, one in enumerate(seen) if one.made is not None}
    rests_on = [sorted(set(_makers(one.read.grad_fn, makers))) for one in seen]
    stages = _staged(seen, rests_on)
    norms = {_identity(one.made): one for one in watch.normed}
    writers = set(_makers(end, makers))
    candidates: list[Candidate] = []
    for stage in stages:
        for read, numbers in stage.items():
            readers = tuple(seen[number].name for number in numbers)
            if (norm := norms.get(read)) is not None:
                candidates.append(Candidate("norm", norm.name, readers))
            else:
                candidates += [
                    Candidate("linear", seen[maker].name, readers) for maker in rests_on[numbers[0]]
                ]
    named = (
        Stage(
            tuple(SharedInput(tuple(seen[number].name for number in numbers)) for numbers in stage.values())
        )
        for stage in stages
    )
    in_order = [
        (seen[number].name, seen[number].read) for one in stages for own in one.values() for number in own
    ]
    reading = [*in_order, *((router.name, router.read) for router in watch.routers)]
    return FoundLayer(
        tuple(named),
        tuple(candidates),
        _stream_reads(reading, watch.normed, makers, writers),
        tuple(seen[maker].name for maker in sorted(writers)),
    )


def _staged(seen: list[_Seen], rests_on: list[list[int]]) -> list[dict[Any, list[int]]]:
    """Numbers of the linears in each stage, by what they read."""
    places: list[int] = []
    for before in rests_on:
        places.append(1 + max((places[maker] for maker in before), default=-1))
    stages: list[dict[Any, list[int]]] = [{} for _ in range(max(places, default=-1) + 1)]
    for number, (one, place) in enumerate(zip(seen, places, strict=True)):
        stages[place].setdefault(_identity(one.read), []).append(number)
    return stages


def _stream_reads(
    reading: list[tuple[str, Tensor]], normed: list[_Normed], makers: dict[Any, int], writers: set[int]
) -> tuple[StreamRead, ...]:
    """Which of the modules read the residual stream, by the norm that lies between, if one does.

    A norm lies between as well where its output is multiplied by numbers that no linear makes.
    """
    norms = {_identity(one.made): one for one in normed}
    nodes = {one.made.grad_fn: number for number, one in enumerate(normed, len(makers)) if one.made.grad_fn}
    ends = {**makers, **nodes}
    found: dict[str | None, list[str]] = {}
    for name, read in reading:
        norm = norms.get(_identity(read))
        if norm is None:
            nearest = set(_makers(read.grad_fn, ends))
            numbers = [number - len(makers) for number in nearest]
            norm = normed[numbers[0]] if len(numbers) == 1 and numbers[0] >= 0 else None
        made_by = set(_makers(read.grad_fn if norm is None else norm.read, makers))
        if made_by <= writers:
            found.setdefault(norm.name if norm else None, []).append(name)
    return tuple(StreamRead(norm, tuple(readers)) for norm, readers in found.items())


def _makers(node: Any, makers: dict[Any, int]) -> Iterator[int]:
    """The nearest linears that something was made from."""
    waiting, known = [node], {node}
    while waiting:
        one = waiting.pop()
        if one is None:
            continue
        if one in makers:
            yield makers[one]
            continue
        for before, _ in one.next_functions:
            if before not in known:
                known.add(before)
                waiting.append(before)


def _identity(read: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same rows in the same memory."""
    base = read if read._base is None else read._base
    return id(base), read._version, read.storage_offset(), read.shape[-1], read.numel(), read.is_contiguous()
