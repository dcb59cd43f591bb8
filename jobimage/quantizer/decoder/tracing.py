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


@dataclass
class _Watch:
    seen: dict[str, _Seen] = field(default_factory=dict)
    normed: list[_Normed] = field(default_factory=list)

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
        output = forward()
    first = output[0] if isinstance(output, (tuple, list)) else output
    end = getattr(first, "grad_fn", None)
    return _found([one for one in watch.seen.values() if one.runs == 1], watch.normed, end), output


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


def _found(seen: list[_Seen], normed: list[_Normed], end: Any) -> FoundLayer:
    makers = {one.made: number for number, one in enumerate(seen) if one.made is not None}
    rests_on = [sorted(set(_makers(one.read.grad_fn, makers))) for one in seen]
    places: list[int] = []
    for before in rests_on:
        places.append(1 + max((places[maker] for maker in before), default=-1))
    stages: list[dict[Any, list[int]]] = [{} for _ in range(max(places, default=-1) + 1)]
    for number, (one, place) in enumerate(zip(seen, places, strict=True)):
        stages[place].setdefault(_identity(one.read), []).append(number)
    norms = {_identity(one.made): one for one in normed}
    writers = set(_makers(end, makers))
    reads: list[StreamRead] = []
    candidates: list[Candidate] = []
    for stage in stages:
        for read, numbers in stage.items():
            readers = tuple(seen[number].name for number in numbers)
            norm = norms.get(read)
            made_by = set(rests_on[numbers[0]] if norm is None else _makers(norm.read, makers))
            if made_by <= writers:
                reads.append(StreamRead(norm.name if norm else None, readers))
            if norm is not None:
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
    return FoundLayer(
        tuple(named), tuple(candidates), tuple(reads), tuple(seen[maker].name for maker in sorted(writers))
    )


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
