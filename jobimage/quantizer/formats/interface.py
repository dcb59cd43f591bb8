"""What every on-disk format can do; the engine knows no other way to write or read a quantized linear.

A linear has K inputs (columns), N outputs (rows) and G groups of columns. Integers are always unsigned (see
algorithms.quantized_weight). A symmetric grid has zero = 2^(b-1) everywhere; a format that stores no zero points
gives that one back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import Scheme
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx

HEAD = "lm_head"
"""Name of the head's linear, by which readers know it."""
TensorShapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Outside:
    """What stays as it is outside the decoder layers of a model that takes more than text.

    Names are those of transformers' modules, which loaders know; a checkpoint may have others.
    """

    layers: str
    """The list of decoder layers."""
    modules: tuple[str, ...]
    """Towers, projectors and the head: no linear in them is quantized."""
    linears: tuple[str, ...]
    """The linears in them, each by itself."""


class WeightFormat(Protocol):
    """One on-disk format with its parameters: how a linear's tensors lie, and what config.json says of them.

    A frozen dataclass implements it. Which parameters it takes, the contract knows.
    """

    names_linears: ClassVar[bool] = True
    """Whether its config can name single linears that stay as they are."""

    names_routers: ClassVar[bool] = False
    """Whether it names what else has a matrix in a layer: routers, which are linears in vLLM, not in transformers."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of a linear's tensors, as in `q_proj.NAME`; a bias is none of them and stays unchanged."""
        ...

    def scheme(self, name: str) -> Scheme | None:  # noqa: ARG002 - most formats store all linears alike
        """Bits and groups of the linear of that full name; None: those of the format itself."""
        return None

    def of(self, name: str) -> Self:  # noqa: ARG002 - likewise
        """The format as the linear of that full name has it."""
        return self

    def check_shape(self, name: str, rows: int, columns: int) -> None:
        """Raises InvalidWorkflow or ModelUnsupported, naming the linear [N, K], when it cannot be written."""
        ...

    def tensor_shapes(self, rows: int, columns: int, groups: int) -> TensorShapes:
        """Dtype and shape of the tensors of a linear [N, K] with G groups."""
        ...

    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """The tensors of a linear, none of which shares memory with another linear's (which may share `g_idx`).

        Raises ValueError for what the format cannot hold: a caller's mistake, since the contract and check_shape
        have refused what a user can ask for.
        """
        ...

    def joined(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a linear from those of its slices of rows, of which all but the last fill whole words.

        The parts are emptied on the way, so that no tensor exists twice beside the others. Raises ValueError where a
        format takes a linear as a whole only.
        """
        raise ValueError(f"{len(parts)} parts for {type(self).__name__}, which packs a linear as a whole")

    def unpack(self, name: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """The inverse of pack, bit by bit: scales as stored, zeros int16.

        Raises:
            QuantizationError: ArtifactCorrupt naming a linear whose tensors cannot be right.
        """
        ...

    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """The weight [N, K] that a reader computes, in the reader's arithmetic."""
        ...

    def quantization_config(self, not_converted: Sequence[str] = ()) -> dict[str, object]:
        """What config.json says under quantization_config.

        not_converted: paths of linears that stay as they are, such as `lm_head` or
        `model.layers.0.mlp.down_proj`.
        """
        ...

    def with_outside(self, config: dict[str, object], outside: Outside) -> dict[str, object]:  # noqa: ARG002
        """The same quantization_config, which names what is outside as well; unchanged where a format needs no name."""
        return config

    def side_files(self, quantization_config: Mapping[str, object]) -> dict[str, bytes]:  # noqa: ARG002
        """Files beside config.json that readers of the format look for; none unless a format says so."""
        return {}


def check_groups(name: str, columns: int, group_size: int) -> None:
    """Raises InvalidWorkflow when a group size does not divide a linear's inputs; -1 always does."""
    if group_size != -1 and columns % group_size:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"group_size {group_size} does not divide the {columns} inputs of {name}; "
            f"write a divisor of {columns}, or -1 for one group per row",
        )


def require_natural_groups(weight: QuantizedWeight, format_name: str) -> None:
    """Raises ValueError when columns are not grouped as they lie and the format cannot say so."""
    g_idx = weight.g_idx
    if not torch.equal(g_idx.int(), natural_g_idx(g_idx.numel(), weight.scales.shape[1], g_idx.device)):
        raise ValueError(f"{format_name} has no group index: the groups must lie one after another")


def require_symmetric(zeros: Tensor, bits: int, format_name: str) -> None:
    """Raises ValueError when a zero point is not the middle of the grid and the format stores none."""
    if not bool((zeros == 2 ** (bits - 1)).all()):
        raise ValueError(f"{format_name} stores no zero points here: every one must be {2 ** (bits - 1)}")
