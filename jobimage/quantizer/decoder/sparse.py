"""A mixture of experts with one linear for each expert, as checkpoints have it.

transformers holds the experts of a layer in fused 3-D tensors; a pass needs linears, each with the tokens
that are sent to it. The sums are transformers': the router's softmax in float32, the chosen weights divided
by their sum where the model does that, experts added in their order, a shared expert last.

Inner activations lie in the order of the experts: [tokens * top_k, inner], expert 0's rows first, the rows
of an expert in the order of the tokens. Those of a shared expert are [tokens, shared inner].
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from quantizer.decoder.architecture import Experts


@dataclass(frozen=True)
class Routing:
    """Which token goes to which expert."""

    token: Tensor
    """[tokens * top_k]: the token of each row, rows in the order of the experts."""
    weight: Tensor
    """[tokens * top_k]: the row's share in the token's output."""
    bounds: tuple[int, ...]
    """Rows bounds[e] .. bounds[e + 1] are those of expert e."""

    def rows(self, expert: int) -> slice:
        """The rows of an expert."""
        return slice(self.bounds[expert], self.bounds[expert + 1])


def routing_of(chosen: Tensor, weights: Tensor, count: int) -> Routing:
    """The routing to `count` experts of the chosen ones [tokens, k], with their weights."""
    order = torch.argsort(chosen.reshape(-1), stable=True)
    counts = torch.bincount(chosen.reshape(-1), minlength=count)
    bounds = (0, *torch.cumsum(counts, dim=0).tolist())
    return Routing(order // chosen.shape[-1], weights.reshape(-1)[order], bounds)


class Expert(nn.Module):
    """One expert's three linears, under the checkpoint's names."""

    def __init__(self, names: Experts, width: int, inner: int) -> None:
        super().__init__()
        for name in (names.gate, names.up):
            self.add_module(name, nn.Linear(width, inner, bias=False))
        self.add_module(names.down, nn.Linear(inner, width, bias=False))


class SparseMlp(nn.Module):
    """A router and its experts, run in two halves; see the module's docstring.

    Args:
        names: how the checkpoint calls the parts.
        config: transformers' config of the model.
    """

    def __init__(self, names: Experts, config: Any) -> None:
        super().__init__()
        self._names = names
        self.count, self.top_k = int(getattr(config, names.count)), int(config.num_experts_per_tok)
        width, self.inner_width = int(config.hidden_size), int(getattr(config, names.inner))
        self._normalized = names.normalized is None or bool(getattr(config, names.normalized))
        self._activation = ACT2FN[config.hidden_act]
        self.add_module(names.router, nn.Linear(width, self.count, bias=False))
        self.experts = nn.ModuleList(Expert(names, width, self.inner_width) for _ in range(self.count))
        self.shared = names.shared
        self.shared_width = int(getattr(config, self.shared.inner)) if self.shared else 0
        if self.shared is not None:
            self.add_module(self.shared.module, Expert(names, width, self.shared_width))
            self.add_module(self.shared.gate, nn.Linear(width, 1, bias=False))

    def route(self, tokens: Tensor) -> Routing:
        """The routing of tokens [tokens, width]."""
        scores = self.get_submodule(self._names.router)(tokens)
        weights, chosen = torch.topk(torch.softmax(scores.float(), dim=-1), self.top_k, dim=-1)
        if self._normalized:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if self._names.cast:
            weights = weights.to(scores.dtype)
        return routing_of(chosen, weights, self.count)

    def core(self, tokens: Tensor, routing: Routing) -> Tensor:
        """What the closing linears read: [tokens * top_k, inner]."""
        inner = tokens.new_empty((len(routing.token), self.inner_width))
        for expert in range(self.count):
            rows = routing.rows(expert)
            if rows.start < rows.stop:
                inner[rows] = self.inner(expert, tokens[routing.token[rows]])
        return inner

    def inner(self, expert: int, tokens: Tensor) -> Tensor:
        """What the closing linear of an expert reads for tokens [rows, width]: [rows, inner]."""
        return self._inner(self.experts[expert], tokens)

    def shared_inner(self, tokens: Tensor) -> Tensor:
        """The same of the shared expert."""
        assert self.shared is not None
        return self._inner(self.get_submodule(self.shared.module), tokens)

    def _inner(self, expert: nn.Module, tokens: Tensor) -> Tensor:
        gate = expert.get_submodule(self._names.gate)(tokens)
        result: Tensor = self._activation(gate) * expert.get_submodule(self._names.up)(tokens)
        return result

    def close(self, tokens: Tensor, inner: Tensor, shared_inner: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the experts' outputs: [tokens, width]. shared_inner: not read without a shared expert."""
        result = torch.zeros_like(tokens)
        for expert in range(self.count):
            rows = routing.rows(expert)
            if rows.start < rows.stop:
                output = self._down(self.experts[expert], inner[rows]) * routing.weight[rows, None]
                result.index_add_(0, routing.token[rows], output.to(result.dtype))
        if self.shared is None:
            return result
        output = self._down(self.get_submodule(self.shared.module), shared_inner)
        return result + torch.sigmoid(self.get_submodule(self.shared.gate)(tokens)) * output

    def _down(self, expert: nn.Module, inner: Tensor) -> Tensor:
        result: Tensor = expert.get_submodule(self._names.down)(inner)
        return result
