"""GPTQ with bits where they matter: bits and group size of each linear are chosen under a budget, then it runs as ever.

What a candidate does to the output is the divergence that the probe caused there, scaled by the ratio of their errors
in the layer: KL grows with the square of a small change, and so does that error. Measured on two small models, see
docs/mixed-precision.md.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.budget import Candidate, choose
from quantizer.algorithms.grid import Scheme
from quantizer.decoder.layout import DecoderLayout
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import HEAD
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.interface import FloatModel, GroupSizes
from quantizer.passes.sensitivity import Tie, measure

NOISE = 1e-7
"""Nats: a divergence below that is rounding of the sums. Such ties still want more bits than none."""
Shape = tuple[int, int]
"""(N, K) of a linear."""


@dataclass(frozen=True)
class Budget:
    """What the quantized linears, or the whole model, may take."""

    bits: float | None = None
    """Of a weight on average, scales and zero points included."""
    size: int | None = None
    """Bytes of the safetensors of the result; one of the two is given."""


@dataclass(frozen=True, kw_only=True)
class MixedGptqLayerPass(GptqLayerPass):
    """GPTQ as a LayerPass whose bits are chosen by `choose`, and set by `with_schemes`."""

    format: GptqFormat | CompressedTensorsFormat
    budget: Budget
    schemes: tuple[Scheme, ...]
    """The candidates."""
    by_default: bool = False
    """Whether nobody asked for their bits: those that the format cannot pack are then left out."""
    parameter: str = "group_size"
    """The one that the group sizes come from."""

    @property
    @override
    def group_sizes(self) -> GroupSizes:
        return GroupSizes(self.parameter)

    @property
    @override
    def rtn_rule(self) -> tuple[Hashable, ...]:
        return *super().rtn_rule, *sorted(self.format.schemes.items(), key=lambda item: item[0])

    @property
    @override
    def chooses(self) -> bool:
        return not self.format.schemes

    @override
    def candidates(self, model: DecoderLayout) -> tuple[Self, ...]:
        every = tuple(self._alike(scheme) for scheme in self.schemes)
        return tuple(one for one in every if not self.by_default or one._packs(model)) or every[-1:]

    @override
    def choose(self, whole: FloatModel) -> dict[str, Scheme]:
        candidates = self.candidates(whole.model.layout)
        shapes = [shape for _, shape in self._linears(whole.model.layout)]
        costs = [_cost(candidate, shapes) for candidate in candidates]
        room = self._room(whole, shapes, min(costs))
        probe = max((at for at, cost in enumerate(costs) if cost <= room), key=lambda at: costs[at])
        ties = measure(whole, candidates, probe)
        chosen = choose([_item(tie, candidates, probe) for tie in ties], room)
        assert chosen is not None, "the cheapest of each are the cheapest of all"
        return {
            name: Scheme(candidates[at].config.bits, candidates[at].config.group_size)
            for tie, at in zip(ties, chosen, strict=True)
            for name in tie.names
        }

    @override
    def with_schemes(self, schemes: Mapping[str, Scheme]) -> Self:
        if not schemes:
            return self
        ((most, _),) = Counter(schemes.values()).most_common(1)
        settled = self._alike(most)
        return replace(settled, format=replace(settled.format, schemes=dict(schemes)))

    def _linears(self, model: DecoderLayout) -> list[tuple[str, Shape]]:
        """Full names and (N, K) of the linears that are rounded."""
        found = [
            (model.layer_prefix(index) + name, shape)
            for index in range(model.layers)
            for name, shape in model.linear_shapes(index).items()
        ]
        return [*found, (HEAD, model.head_shape)] if self.head else found

    def _packs(self, model: DecoderLayout) -> bool:
        """Whether every linear fills whole words; whether groups divide them is asked elsewhere (passes.sizes)."""
        try:
            for name, (rows, columns) in self._linears(model):
                self.format.check_shape(name, rows, columns)
        except QuantizationError as error:
            return error.category is not Category.MODEL_UNSUPPORTED
        return True

    def _alike(self, scheme: Scheme) -> Self:
        """The pass with one scheme for all linears."""
        config = replace(self.config, bits=scheme.bits, group_size=scheme.group_size)
        layout = replace(self.format, bits=scheme.bits, group_size=scheme.group_size, schemes={})
        return replace(self, config=config, format=layout)

    def _room(self, whole: FloatModel, shapes: Sequence[Shape], least: int) -> int:
        """Bits that the packed tensors may take; InvalidWorkflow when they cannot be so few."""
        weights = sum(rows * columns for rows, columns in shapes)
        if self.budget.bits is not None:
            room = math.floor(self.budget.bits * weights)
            asked = f"target_bits {self.budget.bits:g}"
            needed = f"{math.ceil(least / weights * 1000) / 1000:g}"
        else:
            other = whole.other_bytes()
            room = 8 * ((self.budget.size or 0) - other)
            asked = f"target_size {self.budget.size:,} bytes"
            needed = f"{other + math.ceil(least / 8):,} bytes"
        if room < least:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{asked} is too small: with the fewest bits and the largest groups of the candidates it is {needed}, "
                "scales and zero points included",
                f"Raise the target to {needed}, or add fewer bits or larger groups to the candidates.",
            )
        return room


def _cost(candidate: GptqLayerPass, shapes: Sequence[Shape]) -> int:
    """Bits of the tensors of linears, as the artifact's bits per weight count them."""
    tensors = (
        tensor
        for rows, columns in shapes
        for tensor in candidate.format.tensor_shapes(rows, columns, candidate.grid.groups(columns)).values()
    )
    return sum(8 * dtype.itemsize * math.prod(size) for dtype, size in tensors)


def _item(tie: Tie, candidates: Sequence[GptqLayerPass], probe: int) -> list[Candidate]:
    """A tie as what is to be chosen of it costs and does."""
    scale = max(tie.divergence, NOISE) / tie.errors[probe] if tie.errors[probe] > 0 else 0.0
    return [
        Candidate(_cost(candidate, tie.shapes), scale * error)
        for candidate, error in zip(candidates, tie.errors, strict=True)
    ]
