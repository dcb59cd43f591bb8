"""A decoder layer without weights, in the shape that the engine works on: linears, as the checkpoint names them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from quantizer.decoder.architecture import (
    Architecture,
    Block,
    Candidate,
    FoundLayer,
    SharedInput,
    Stage,
    StreamRead,
)
from quantizer.decoder.blocks import held_tensors
from quantizer.decoder.linear_experts import with_all_experts
from quantizer.decoder.sparse import SparseMlp
from quantizer.decoder.stored_names import Joined


class LayerPattern:
    """Decoder layer `index` on the meta device.

    Experts in fused tensors become linears (sparse.py, linear_experts.py); transformers' Conv1D, whose weight lies as
    [K, N], becomes nn.Linear with a weight [N, K].

    found: the stages of a layer that neither the table of architectures nor the user describes (finding.py).
    stored: what the checkpoint calls a tensor of the layer, where that is another name. Names below are those in the
    checkpoint, and `names` leads to the module. joined: the tensors that the checkpoint holds in parts.
    shape_of: the shape that a tensor has there.

    Attributes: blocks (empty for the generic path), stages, ignored (linears in no stage of the generic path),
    always_float (linears that are too small for any format: the gate of a shared expert),
    conv1d (linears that the checkpoint holds as [K, N]), whole_numbers (tensors of them), shapes (of the parameters
    as the checkpoint has them, by name in the layer).
    """

    def __init__(
        self,
        layer: nn.Module,
        architecture: Architecture,
        config: Any,
        found: tuple[Stage, ...] = (),
        stored: Callable[[str], str] = str,
        joined: Mapping[str, Joined] | None = None,
        shape_of: Callable[[str], tuple[int, ...]] = lambda _: (),
    ) -> None:
        self._config, self._joined = config, joined or {}
        module = self._copy(layer)
        with_all_experts(module)
        conv1d = _linears_for_conv1d(module)
        self.blocks = architecture.blocks
        names = architecture.experts
        if names and architecture.sparse_block and hasattr(module.get_submodule(names.found_as), "experts"):
            delattr(module, names.found_as)
            with torch.device("meta"):
                module.add_module(architecture.sparse_block.module, SparseMlp(names, config))
            self.blocks = (*architecture.blocks[:-1], architecture.sparse_block)
        self.sparse = any(block.kind == "experts" for block in self.blocks)
        self.names = LayerNames({name: stored(name) for name, _ in held_tensors(module)})
        self.conv1d = frozenset(map(self.names.module, conv1d))
        listed = tuple(Stage((SharedInput(names),)) for names in architecture.listed_stages)
        of_blocks = tuple(stage for block in self.blocks for stage in self._block_stages(module, block))
        self.stages = tuple(map(self.names.of_stage, of_blocks or listed or found))
        taken = {name for stage in self.stages for name in stage.names}
        linears = [
            self.names.module(name) for name, part in module.named_modules() if isinstance(part, nn.Linear)
        ]
        self.ignored = () if self.blocks else tuple(name for name in linears if name not in taken)
        shared = names.shared if names and self.sparse else None
        self.always_float = () if shared is None else (f"{self.blocks[-1].module}.{shared.gate}",)
        self._module = module
        held = held_tensors(module)
        self.whole_numbers = tuple(
            self.names.stored[name] for name, value in held if not value.is_floating_point()
        )
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, value in held_tensors(module):
            shape, other = tuple(value.shape), self.names.stored[name]
            if name in self._joined:
                self.shapes |= _of_parts(shape, self._joined[name], shape_of)
            else:
                self.shapes[other] = shape[::-1] if self._is_conv1d(other) else shape

    def join(self, weights: dict[str, Tensor]) -> None:
        """Puts tensors of the module in the place of their parts."""
        for name, held in self._joined.items():
            weights[name] = torch.cat([weights.pop(part) for part in held.parts], held.axis)

    def fresh(self) -> nn.Module:
        """A copy to put weights into."""
        return self._copy(self._module)

    def transposed(self, name: str, weight: Tensor) -> Tensor:
        """A parameter between the checkpoint's orientation and [N, K]; the way there is the way back."""
        return weight.t().contiguous() if self._is_conv1d(name) else weight

    def transposed_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter as [N, K]."""
        shape = self.shapes[name]
        return shape[::-1] if self._is_conv1d(name) else shape

    def _is_conv1d(self, name: str) -> bool:
        linear, _, leaf = name.rpartition(".")
        return leaf == "weight" and linear in self.conv1d

    def _copy(self, module: nn.Module) -> nn.Module:
        return copy.deepcopy(module, {id(self._config): self._config})

    @staticmethod
    def _block_stages(module: nn.Module, block: Block) -> tuple[Stage, Stage]:
        if block.kind != "experts":
            return Stage((SharedInput(block.input_names),)), Stage((SharedInput((block.output_name,)),))
        mlp = module.get_submodule(block.module)
        assert isinstance(mlp, SparseMlp)
        inside = [f"{block.module}.experts.{expert}." for expert in range(mlp.count)]
        first = [_expert(*(prefix + name for name in block.inputs)) for prefix in inside]
        second = [_expert(prefix + block.output) for prefix in inside]
        if mlp.shared is not None:
            prefix = f"{block.module}.{mlp.shared.module}."
            first.append(SharedInput(tuple(prefix + name for name in block.inputs)))
            second.append(SharedInput((prefix + block.output,)))
        return Stage(tuple(first)), Stage(tuple(second))


class LayerNames:
    """Names of a layer's tensors and linears in the checkpoint and in transformers' module.

    stored: by the module's name of a tensor, the checkpoint's.
    """

    def __init__(self, stored: Mapping[str, str]) -> None:
        self.stored = stored
        self._own = {other: name for name, other in stored.items()}

    def module(self, name: str) -> str:
        """What the checkpoint calls a module with a weight."""
        return self.stored.get(f"{name}.weight", f"{name}.weight").removesuffix(".weight")

    def own(self, name: str) -> str:
        """What the module calls a tensor."""
        return self._own.get(name, name)

    def own_module(self, name: str) -> str:
        """What transformers calls a module with a weight."""
        return self.own(f"{name}.weight").removesuffix(".weight")

    def of_stage(self, stage: Stage) -> Stage:
        """A stage with the checkpoint's names."""
        return Stage(
            tuple(replace(one, names=tuple(map(self.module, one.names))) for one in stage.shared_inputs)
        )

    def of_candidate(self, candidate: Candidate) -> Candidate:
        """A candidate with the checkpoint's names."""
        readers = tuple(map(self.module, candidate.readers))
        return replace(candidate, source=self.module(candidate.source), readers=readers)

    def of_found(self, found: FoundLayer) -> FoundLayer:
        """What was found in a layer, with the checkpoint's names."""
        return FoundLayer(
            tuple(map(self.of_stage, found.stages)),
            tuple(map(self.of_candidate, found.candidates)),
            tuple(map(self._of_read, found.reads)),
            tuple(map(self.module, found.writers)),
        )

    def _of_read(self, read: StreamRead) -> StreamRead:
        norm = None if read.norm is None else self.module(read.norm)
        return StreamRead(norm, tuple(map(self.module, read.readers)))


def _of_parts(
    whole: tuple[int, ...], held: Joined, shape_of: Callable[[str], tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the parts of a tensor: as the checkpoint has them, where they make the whole; else equal ones."""
    before, size, behind = whole[: held.axis], whole[held.axis], whole[held.axis + 1 :]
    found = [shape_of(part) for part in held.parts]
    sizes = [shape[held.axis] if len(shape) == len(whole) else 0 for shape in found]
    if sum(sizes) != size:
        sizes = [size // len(held.parts)] * len(held.parts)
    return {part: (*before, one, *behind) for part, one in zip(held.parts, sizes, strict=True)}


def _expert(*names: str) -> SharedInput:
    return SharedInput(names, expert=True)


def _linears_for_conv1d(module: nn.Module) -> frozenset[str]:
    """Replaces every Conv1D by an nn.Linear of the same name; returns the names."""
    found = [name for name, part in module.named_modules() if isinstance(part, Conv1D)]
    for name in found:
        inputs, outputs = module.get_parameter(f"{name}.weight").shape
        parent, _, leaf = name.rpartition(".")
        with torch.device("meta"):
            setattr(module.get_submodule(parent), leaf, nn.Linear(int(inputs), int(outputs)))
    module.requires_grad_(False).eval()
    return frozenset(found)
