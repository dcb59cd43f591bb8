"""What the streaming loop asks of a pass, and what it gets back."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from quantization_api.manifest import LayerRanges, LinearReport
from quantizer.algorithms.grid import GroupedGrid, Scheme
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput
from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.walk import LayerWalk, StoreFactory
from quantizer.formats.interface import WeightFormat
from quantizer.passes.transform import Transform, Unchanged

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
    ranges: LayerRanges | None = None
    """Of a rotated layer."""


@dataclass(frozen=True)
class GroupSizes:
    """The group sizes that a pass takes."""

    parameter: str = "group_size"
    """Its name in a manifest."""
    sizes: tuple[int, ...] | None = None
    """-1 is one group per row; None: any size."""
    instead: str = ""
    """What to do if none of them fits."""


@dataclass(frozen=True)
class Reference:
    """The same layer before anything of the model was rounded, on what reached it then; by the number of the batch."""

    walk: LayerWalk
    """Not at its end before the pass has finished it."""
    outputs: ActivationStore
    """What that layer makes, when the walk is at its end."""
    inputs: ActivationStore
    """What reaches the layer now, from the rounded layers before it."""
    outputs_now: ActivationStore
    """What the layer makes of that, when its own walk is at its end."""
    store: StoreFactory
    """A store on scratch, beside the walk's own."""


@dataclass(frozen=True)
class LayerContext:
    """One decoder layer that a pass works on."""

    prefix: str
    """Dotted name of the layer in the checkpoint, with the closing dot."""
    walk: LayerWalk
    folds: Callable[[], tuple[FoldPlace, ...]]
    """Places where scales can be folded away; to be asked for before a weight is changed."""
    weight: Callable[[str], Tensor]
    """Name of a linear in the layer -> its weight [N, K] to be rounded; asked for once, before the linear gets
    another. The linear's own may have been cut to the data type of calibration."""
    stored: Callable[[str, Tensor], Tensor]
    """(Name in the layer, parameter as the layer has it) -> the tensor as the checkpoint has it."""
    device: torch.device
    timed: Timed
    reference: Reference | None = None
    """For a pass that follows the float model."""

    def numbers(self, shared: SharedInput) -> int:
        """Of the weights of the linears that share an input."""
        return sum(self.walk.linear(name).weight.numel() for name in shared.names)


@dataclass(frozen=True)
class HeadContext:
    """The head, behind the rounded layers."""

    inputs: Callable[[], Iterator[Tensor]]
    """What it reads, [batch, tokens, K] of each batch: the last layer's output behind the final norm."""
    slices: Callable[[], Iterator[Tensor]]
    """Its weight [N, K] in slices of rows, in their order."""
    device: torch.device
    timed: Timed


@dataclass(frozen=True)
class FloatModel:
    """The model before anything is rounded, rotated or not, for a pass that has to know all of it beforehand."""

    model: DecoderModel
    tokens: TokenBatches
    """The calibration set."""
    layers: Callable[[], Iterator[dict[str, Tensor]]]
    """The weights of each decoder layer by their names in it, read ahead."""
    store: StoreFactory
    """A store on scratch."""
    timed: Timed
    on_layer: Callable[[], None]
    """Called after each layer; what it raises ends the run."""
    other_bytes: Callable[[], int]
    """Bytes of the result's safetensors, headers included, that no choice of bits changes."""
    transform: Transform = field(default_factory=Unchanged)
    """What was done to `layers`, and so to what runs between the embedding and the final norm."""


class LayerPass(Protocol):
    """A quantization pass with its parameters.

    What depends on the model comes with `bind`; transform, replayed and run are for a bound pass only.
    """

    @property
    def format(self) -> WeightFormat:
        """How the rounded linears lie on disk."""
        ...

    @property
    def grid(self) -> GroupedGrid:
        """Bits, groups and symmetry; RTN on it is the baseline."""
        ...

    @property
    def group_sizes(self) -> GroupSizes:
        """The group sizes that a manifest may ask for."""
        ...

    @property
    def packs(self) -> bool:
        """False when linears are prepared for rounding but stored as they are."""
        ...

    @property
    def dtype(self) -> torch.dtype | None:
        """What the model is loaded in, and unquantized tensors are stored in; None: the checkpoint's own."""
        ...

    @property
    def wider_dtype(self) -> str:
        """What to do where that type cannot hold a value: a cure, as in a failure."""
        ...

    @property
    def calibration_dtype(self) -> torch.dtype | None:
        """What activations are computed in; None leaves it to the machine."""
        ...

    @property
    def replays_unrounded(self) -> bool:
        """Whether the next layer reads the unrounded layer's output.

        A restarted run then replays finished layers with their original weights.
        """
        ...

    @property
    def follows_float(self) -> bool:
        """Whether it compares each layer with the float model's, on what reaches it there.

        A restarted run then replays finished layers with their original weights as well.
        """
        ...

    @property
    def transform(self) -> Transform:
        """What is done to the model before its linears are rounded."""
        ...

    def bind(self, model: DecoderLayout) -> "LayerPass":
        """The pass for this model; InvalidWorkflow or ModelUnsupported when they do not go together."""
        ...

    @property
    def rtn_rule(self) -> tuple[Hashable, ...]:
        """What decides RTN's figures beside the model: equal where two passes have the same."""
        ...

    def rtn(self, weight: Tensor) -> QuantizedWeight:
        """RTN of rows [n, K] float32 on the pass's grid: what it has to beat."""
        ...

    @property
    def online(self) -> dict[str, Any] | None:
        """How a reader rounds activations, keys and values (see formats.quarot); None: not at all."""
        ...

    def of(self, name: str) -> "LayerPass":
        """The pass as it rounds the linear of that full name."""
        ...

    def candidates(self, model: DecoderLayout) -> Sequence["LayerPass"]:
        """The passes, alike for all linears, that it may apply to a linear of the model; itself, unless it chooses."""
        ...

    @property
    def chooses(self) -> bool:
        """Whether it has to choose bits and groups of the linears before it can be run."""
        ...

    def choose(self, whole: FloatModel) -> dict[str, Scheme]:
        """Bits and groups of every linear by its full name.

        Raises:
            QuantizationError: InvalidWorkflow when no choice is small enough; and as `run` does.
        """
        ...

    def with_schemes(self, schemes: Mapping[str, Scheme]) -> "LayerPass":
        """The pass with such a choice made."""
        ...

    def converts(self, name: str) -> bool:
        """Whether the linear of that full name is rounded."""
        ...

    @property
    def rounds_head(self) -> bool:
        """Whether the head is rounded too, by `run_head`; it is then among what is chosen."""
        ...

    def run_head(self, head: HeadContext) -> FinishedLayer:
        """Rounds the head, when all layers are; raises as `run` does."""
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
