"""Experts that a class of transformers holds in fused tensors, as linears: the same function, for a pass to work on.

transformers runs the experts of a layer in one module, whose tensors hold those of all of them. Here it gets a linear
for each expert and part. Those of expert 3 are called 3.gate_proj, 3.up_proj and 3.down_proj in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantizer.decoder.fused_experts import DOWN, GATE, UP, FusedExperts
from quantizer.decoder.sparse import Routing, routing_of

TRIED_TOKENS = 7
TOLERANCE = 1e-5
SPREADS = (1.0, 30.0)
"""Of the values that are tried: large ones meet the limits that some activations have."""


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
        routed = [value for value in (*routing, *named.values()) if isinstance(value, Tensor)]
        sent = self._routing(tokens, routed)
        if self.all_read:
            self.sent = tuple(
                sent.rows(expert).stop - sent.rows(expert).start for expert in range(self.fused.count)
            )
            self._outputs(tokens if routed else self._of_any_block(tokens))
        result = torch.zeros_like(tokens)
        for expert in range(self.fused.count):
            rows = sent.rows(expert)
            self._add(expert, tokens[sent.token[rows]], sent, rows, result)
        self._add_unchanged(tokens, sent, result)
        return result.view_as(hidden)

    def _routing(self, tokens: Tensor, tensors: list[Tensor]) -> Routing:
        if tensors:
            chosen = next(value for value in tensors if not value.is_floating_point())
            weights = next(value for value in tensors if value.is_floating_point())
            return routing_of(chosen.reshape(len(tokens), -1), weights, self.fused.count)
        full = tokens.any(dim=-1)  # a token that is not sent to the expert is zero in its block
        counts = full.view(self.fused.count, -1).sum(dim=1)
        bounds = (0, *torch.cumsum(counts, dim=0).tolist())
        return Routing(full.nonzero()[:, 0], tokens.new_ones(int(bounds[-1])), bounds)

    def _of_any_block(self, tokens: Tensor) -> Tensor:
        """Each token as the experts read it that it is sent to: weighted, by the mean where they are several.

        Blocks hold nothing of the tokens that are sent elsewhere, so this is all that is known of them.
        """
        blocks = tokens.view(self.fused.count, -1, tokens.shape[-1])
        times = blocks.any(dim=-1, keepdim=True).sum(dim=0).clamp(min=1)
        return blocks.sum(dim=0) / times

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
        normed: Tensor = output if norm is None else norm(output)
        return normed

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
    changed: Any = module
    changed.__class__ = type(f"Linear{type(module).__name__}", (LinearExperts, type(module)), {})
    for tensor in {place.tensor for place in fused.places.values()}:
        del module._parameters[tensor]
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
