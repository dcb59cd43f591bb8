"""What the streaming loop asks of a pass, and what it gets back."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from quantization_api.manifest import LinearReport
from quantizer.algorithms.grid import GroupedGrid
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.decoder.architecture import SharedInput
from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.walk import LayerWalk
from quantizer.formats.interface import WeightFormat
from quantizer.passes.transform import Transform

Timed = Callable[[str], AbstractContextManager[None]]
"""A context that adds its time to a stage: calibrate, solve."""


@dataclass
class FinishedLayer:
    """What a layer became."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By full name: packed linears, and parameters that were changed, as the checkpoint has them."""
    linears: list[LinearReport] = field(default_factory=list)
    """Of each linear that was quantized."""
    calibration_dtype: torch.dtype = torch.float32
    """What activations were computed in."""


@dataclass(frozen=True)
class GroupSizes:
    """How a pass calls its group size in a manifest, and which it takes.

    sizes: -1 is one group a row; None is all. instead: what to do where none of them fits.
    """

    parameter: str = "group_size"
    sizes: tuple[int, ...] | None = None
    instead: str = ""


@dataclass(frozen=True)
class LayerContext:
    """One decoder layer that a pass works on.

    prefix: dotted name of the layer in the checkpoint, with the closing dot.
    folds: places where scales can be folded away (see decoder.folding).
    weight: name of a linear in the layer -> its weight [N, K] as it is to be rounded; asked for once, before the
        linear gets another. The linear's own may have been cut to the data type of calibration.
    stored: (name in the layer, parameter as the layer has it) -> the tensor as the checkpoint has it.
    """

    prefix: str
    walk: LayerWalk
    folds: tuple[FoldPlace, ...]
    weight: Callable[[str], Tensor]
    stored: Callable[[str, Tensor], Tensor]
    device: torch.device
    timed: Timed

    def numbers(self, shared: SharedInput) -> int:
        """Of the weights of the linears that share an input."""
        return sum(self.walk.linear(name).weight.numel() for name in shared.names)


class LayerPass(Protocol):
    """A quantization pass with its parameters.

    What depends on the model comes with `bind`; transform, replayed and run are asked of a bound pass only.

    format: how the rounded linears lie on disk. packs: False when linears are prepared for rounding but stored
    as they are. grid: bits, groups and symmetry; RTN on it is the baseline. group_sizes: what can be
    asked for instead. dtype: what the model
    is loaded in, and what stays unquantized is stored in; None is the checkpoint's own. calibration_dtype: what
    activations are computed in; None leaves it to the machine. replays_unrounded: whether the next layer reads the
    unrounded layer's output, so that a restarted run replays finished layers with their original weights.
    """

    @property
    def format(self) -> WeightFormat: ...

    @property
    def grid(self) -> GroupedGrid: ...

    @property
    def group_sizes(self) -> GroupSizes: ...

    @property
    def packs(self) -> bool: ...

    @property
    def dtype(self) -> torch.dtype | None: ...

    @property
    def calibration_dtype(self) -> torch.dtype | None: ...

    @property
    def replays_unrounded(self) -> bool: ...

    @property
    def transform(self) -> Transform: ...

    def bind(self, model: DecoderLayout) -> "LayerPass":
        """The pass for this model; InvalidWorkflow or ModelUnsupported when they do not go together."""
        ...

    def rtn(self, weight: Tensor) -> QuantizedWeight:
        """RTN of rows [n, K] float32 on the pass's grid: what it has to beat."""
        ...

    def converts(self, name: str) -> bool:
        """Whether the linear of that full name is rounded."""
        ...

    def divisors(self, model: DecoderLayout, index: int) -> dict[str, int]:
        """Tensors that a reader of layer `index` divides activations by, full name -> length; they are ones here."""
        ...

    def replayed(self, name: str, weight: Tensor) -> Tensor:
        """The weight [N, K] that computes in the plain layer what the stored one does in the artifact's.

        name: in the layer. weight: as a reader computes it.
        """
        ...

    def run(self, layer: LayerContext) -> FinishedLayer:
        """Rounds the layer; afterwards the walk is at its end.

        Raises:
            QuantizationError: NumericalFailure, DataInsufficient, naming the module.
        """
        ...
