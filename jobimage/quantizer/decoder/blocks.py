"""A decoder layer on real weights, run block by block, each block in two halves (see architecture.Block).

The closing linear of a block is taken out of its module and put behind it, so that transformers' own
forward of the module computes exactly the input of that linear.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quantizer.decoder.architecture import Block, SharedInput, Stage
from quantizer.decoder.buffers import learned_buffers
from quantizer.decoder.context import Arguments
from quantizer.decoder.sparse import SparseMlp

ArgumentsOf = Callable[[int, int], Arguments]
"""(batch, tokens) -> what the layer's forward takes beside hidden states of that shape."""


Seen = Iterator[tuple[SharedInput, Tensor, int]]
"""Shared inputs, what is read there, and how many tokens a router sends there (without one: all)."""


class DenseBlock:
    """Attention or an MLP on real weights."""

    def __init__(
        self, module: nn.Module, block: Block, stages: tuple[Stage, Stage], arguments_of: ArgumentsOf
    ) -> None:
        self.block, self._stages, self._arguments_of = block, stages, arguments_of
        self._norm = module.get_submodule(block.norm)
        self._post_norm = module.get_submodule(block.post_norm) if block.post_norm else None
        self._core = parent = module.get_submodule(block.module)
        self.output = parent.get_submodule(block.output)
        if block.module:
            setattr(parent, block.output, nn.Identity())
        self._parameters = inspect.signature(parent.forward).parameters

    def normed(self, source: Tensor) -> Tensor:
        """norm(x), what the block's input linears read: [batch, tokens, width]."""
        result: Tensor = self._norm(source)
        return result

    def core(self, normed: Tensor) -> Tensor:
        """What the closing linear reads: [batch, tokens, inner width]."""
        block = self.block
        if not block.module:
            first = self._core.get_submodule(block.inputs[0])
            activated: Tensor = getattr(self._core, block.activation)(first(normed))
            return activated
        arguments: dict[str, Any] = {}
        if block.residual_argument:  # the module adds it; what is wanted is the closing linear's input alone
            arguments["residual"] = normed.new_zeros(())
        if block.kind == "attention":
            arguments |= self._accepted(self._arguments_of(normed.shape[0], normed.shape[1]))
        result = self._core(normed, **arguments)
        inner: Tensor = result[0] if isinstance(result, tuple) else result
        return inner

    def close(self, source: Tensor, residual: Tensor, inner: Tensor) -> Tensor:  # noqa: ARG002 - experts need it
        """residual + post_norm(output(inner)): the hidden states after the block."""
        output = self.output(inner)
        result: Tensor = residual + (self._post_norm(output) if self._post_norm else output)
        return result

    def inner_shape(self, batch: int, tokens: int) -> tuple[int, int, int]:
        """Shape of the core's output for hidden states [batch, tokens, width]."""
        assert isinstance(self.output, nn.Linear)
        return batch, tokens, self.output.in_features

    def inputs(self, normed: Tensor, every_expert: bool) -> Seen:  # noqa: ARG002 - it has none
        """What the linears of the first half read."""
        yield self._stages[0].shared_inputs[0], normed, normed.shape[0] * normed.shape[1]

    def output_inputs(self, source: Tensor, inner: Tensor, every_expert: bool) -> Seen:  # noqa: ARG002 - it has none
        """What the linears of the second half read."""
        yield self._stages[1].shared_inputs[0], inner, inner.shape[0] * inner.shape[1]

    def _accepted(self, arguments: Arguments) -> dict[str, Any]:
        """Those of the layer's arguments that the attention takes; layers hand them on by name."""
        rest = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._parameters.values())
        chosen: dict[str, Any] = {}
        for name, value in arguments.items():
            known = self._parameters.get(name)
            needed = known is not None and known.default is inspect.Parameter.empty
            if needed or (value is not None and (rest or known is not None)):
                chosen[name] = value
        return chosen


class SparseBlock:
    """A mixture of experts on real weights: as DenseBlock, with an input for each expert, the shared one's last.

    Every expert's input is handed out for every batch, with no rows where no token was sent to it.
    """

    def __init__(self, module: nn.Module, block: Block, stages: tuple[Stage, Stage]) -> None:
        self.block, self._stages = block, stages
        self._norm = module.get_submodule(block.norm)
        mlp = module.get_submodule(block.module)
        assert isinstance(mlp, SparseMlp)
        self._mlp = mlp

    def normed(self, source: Tensor) -> Tensor:
        """norm(source)."""
        result: Tensor = self._norm(source)
        return result

    def core(self, normed: Tensor) -> Tensor:
        """[batch, tokens, top_k * inner + shared inner]: what `_parts` takes apart again."""
        tokens = normed.flatten(0, 1)
        inner = self._mlp.core(tokens, self._mlp.route(tokens)).reshape(len(tokens), -1)
        if self._mlp.shared is not None:
            inner = torch.cat((inner, self._mlp.shared_inner(tokens)), dim=1)
        return inner.reshape(*normed.shape[:2], -1)

    def _parts(self, inner: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens * top_k, inner], rows in the order of sparse.Routing over the whole batch; [tokens, shared inner]."""
        mlp = self._mlp
        widths = [mlp.top_k * mlp.inner_width, mlp.shared_width]
        sent, shared = inner.flatten(0, 1).split(widths, dim=1)
        return sent.reshape(-1, mlp.inner_width), shared

    def close(self, source: Tensor, residual: Tensor, inner: Tensor) -> Tensor:
        """residual + the weighted sum of the experts; the router (which stays in float) is asked again."""
        tokens = self.normed(source).flatten(0, 1)
        output = self._mlp.close(tokens, *self._parts(inner), self._mlp.route(tokens))
        return residual + output.reshape(residual.shape)

    def inner_shape(self, batch: int, tokens: int) -> tuple[int, int, int]:
        """Shape of the core's output for hidden states [batch, tokens, width]."""
        return batch, tokens, self._mlp.top_k * self._mlp.inner_width + self._mlp.shared_width

    def inputs(self, normed: Tensor, every_expert: bool) -> Seen:
        """What gate and up of each expert read: [rows, width].

        every_expert: each reads all tokens, whatever the router says.
        """
        tokens = normed.flatten(0, 1)
        routing = self._mlp.route(tokens)
        for expert, shared in enumerate(self._stages[0].shared_inputs[: self._mlp.count]):
            rows = routing.rows(expert)
            yield shared, tokens if every_expert else tokens[routing.token[rows]], rows.stop - rows.start
        for shared in self._stages[0].shared_inputs[self._mlp.count :]:
            yield shared, tokens, len(tokens)

    def output_inputs(self, source: Tensor, inner: Tensor, every_expert: bool) -> Seen:
        """What the closing linear of each expert reads: [rows, inner]. every_expert: as for inputs."""
        tokens = self.normed(source).flatten(0, 1)
        routing, (sent, shared_inner) = self._mlp.route(tokens), self._parts(inner)
        for expert, shared in enumerate(self._stages[1].shared_inputs[: self._mlp.count]):
            rows = routing.rows(expert)
            read = self._mlp.inner(expert, tokens) if every_expert else sent[rows]
            yield shared, read, rows.stop - rows.start
        for shared in self._stages[1].shared_inputs[self._mlp.count :]:
            yield shared, shared_inner, len(tokens)


class BlockLayer:
    """One decoder layer on real weights.

    Args:
        module: the layer, weights in it; it is taken apart.
        blocks, stages: from the layer's pattern; two stages a block.
        parallel: every block reads the layer's input (GPT-NeoX), not what the block before made.
        arguments_of: what the layer takes beside hidden states.
    """

    def __init__(
        self,
        module: nn.Module,
        blocks: tuple[Block, ...],
        stages: tuple[Stage, ...],
        parallel: bool,
        arguments_of: ArgumentsOf,
    ) -> None:
        self._module, self.stages, self.parallel = module, stages, parallel
        self.blocks: list[DenseBlock | SparseBlock] = []
        for number, block in enumerate(blocks):
            pair = (stages[2 * number], stages[2 * number + 1])
            self.blocks.append(
                SparseBlock(module, block, pair)
                if block.kind == "experts"
                else DenseBlock(module, block, pair, arguments_of)
            )
        self._outputs = {
            running.block.output_name: running.output
            for running in self.blocks
            if isinstance(running, DenseBlock)
        }

    def linear(self, name: str) -> nn.Linear:
        """A linear by its name in the layer."""
        found = self._outputs.get(name) or self._module.get_submodule(name)
        assert isinstance(found, nn.Linear), name
        return found

    def module(self, name: str) -> nn.Module:
        """A linear, a norm or a router by its name in the layer."""
        return self._outputs.get(name) or self._module.get_submodule(name)

    def forward(self, hidden: Tensor) -> Tensor:
        """The whole layer: [batch, tokens, width] to the same."""
        total = hidden
        for running in self.blocks:
            source = hidden if self.parallel else total
            total = running.close(source, total, running.core(running.normed(source)))
        return total

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters by their names in the layer."""
        yield from self._module.named_parameters()
        for name, linear in self._outputs.items():
            if self._module.get_submodule(name) is not linear:
                for leaf, value in linear.named_parameters():
                    yield f"{name}.{leaf}", value


def held_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint holds of a module, by its names there: parameters, and buffers of numbers that were learned."""
    yield from module.named_parameters()
    for prefix, part in module.named_modules():
        for leaf in learned_buffers(part):
            yield f"{prefix}.{leaf}" if prefix else leaf, part.get_buffer(leaf)


def load_weights(
    module: nn.Module,
    weights: dict[str, Tensor],
    transposed: Callable[[str, Tensor], Tensor],
    own: Callable[[str], str] = str,
) -> None:
    """Moves every tensor of `weights` (as the checkpoint has them) into the module, emptying the mapping.

    own: what the module calls a tensor of the checkpoint.
    """
    missing = {name for name, _ in held_tensors(module)} ^ set(map(own, weights))
    if missing:
        raise KeyError(f"parameters and weights differ: {sorted(missing)[:3]}")
    for name in list(weights):
        owner, _, leaf = own(name).rpartition(".")
        part, value = module.get_submodule(owner), transposed(name, weights.pop(name))
        if leaf in part._buffers:
            part._buffers[leaf] = value
        else:
            part._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
