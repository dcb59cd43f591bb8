"""The integers of an ONNX graph beside those of the checkpoint that it was made from, bit by bit.

MatMulNBits (domain com.microsoft) of a linear [N, K] in b bits with blocks of B inputs, G = K / B:

    input        dtype  shape                content
    B            uint8  [N, G, B*b/8]        integers along K, least significant first
    scales       fp32   [N*G]                (fp16 where activations are fp16)
    zero_points  uint8  [N * ceil(G*b/8)]    each row filled up to a whole byte

The builder may lay q, k and v of a layer on top of each other as qkv_proj, and take gate_up_proj apart.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.export.quantized import QuantizedCheckpoint

STACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
HALVES = {"gate_proj": ("gate_up_proj", 0), "up_proj": ("gate_up_proj", 1)}


@dataclass(frozen=True)
class Piece:
    """Some outputs of one of the checkpoint's linears."""

    linear: str
    part: int = 0
    """Which of `parts` equal ones."""
    parts: int = 1


@dataclass(frozen=True)
class StoredLinear:
    """One MatMulNBits node and its three tensors, which the module describes."""

    node: str
    """Name of the node."""
    layer: int
    linear: str
    """The last part of the linear's name."""
    bits: int
    packed: Tensor
    scales: Tensor
    packed_zeros: Tensor

    def rows(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Integers [rows, K] uint8, scales and zeros [rows, G] of some outputs."""
        total, groups = self.packed.shape[:2]
        scales = self.scales.reshape(total, groups)[first:last]
        zeros = _unpack(self.packed_zeros.reshape(total, -1)[first:last], self.bits)[:, :groups]
        return _unpack(self.packed[first:last].flatten(1), self.bits), scales, zeros


def stored_linears(folder: Path) -> Iterator[StoredLinear]:
    """The MatMulNBits nodes of model.onnx; one linear's tensors are in memory at a time."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        parts = node.name.strip("/").split("/")  # model/layers.3/mlp/down_proj/MatMulNBits
        layer = parts[1].removeprefix("layers.") if len(parts) == 5 else ""
        if not layer.isdigit() or len([name for name in node.input if name]) != 4:
            raise _differs(f"{node.name} is not a linear of a decoder layer with scales and zero points")
        packed, scales, zeros = (_load(tensors[name], folder) for name in node.input[1:4])
        yield StoredLinear(node.name, int(layer), parts[3], attributes["bits"], packed, scales, zeros)


def check_integers(
    folder: Path, checkpoint: QuantizedCheckpoint, on_linear: Callable[[int], None] = lambda _done: None
) -> int:
    """Compares every linear; returns how many there are.

    Raises:
        QuantizationError: NumericalFailure naming the first linear whose integers, scales or zero points
            are not the checkpoint's, or that the graph has not, or has too many of.
    """
    expected = {
        (index, linear.rpartition(".")[2]): f"{checkpoint.model.layout.layer_prefix(index)}{linear}"
        for index in range(checkpoint.model.layout.layers)
        for linear in checkpoint.model.layout.linears(index)
    }
    done: set[tuple[int, Piece]] = set()
    for stored in stored_linears(folder):
        first = 0
        for piece in _pieces(stored, expected):
            full_name = expected.get((stored.layer, piece.linear))
            if full_name is None or (stored.layer, piece) in done:
                raise _differs(f"{stored.node} is none of the checkpoint's quantized linears")
            theirs = checkpoint.linear(full_name)
            count = theirs.integers.shape[0] // piece.parts
            rows = slice(piece.part * count, (piece.part + 1) * count)
            _compare(full_name, stored.rows(first, first + count), theirs, rows)
            first += count
            done.add((stored.layer, piece))
            on_linear(len({(layer, one.linear) for layer, one in done}))
        if first != stored.packed.shape[0]:
            raise _differs(f"{stored.node} has {stored.packed.shape[0]} outputs, the checkpoint {first}")
    for (layer, linear), full_name in expected.items():
        found = [piece for index, piece in done if (index, piece.linear) == (layer, linear)]
        if sum(1 / piece.parts for piece in found) != 1:
            raise _differs(f"the graph has no quantized {full_name}")
    return len(expected)


def _pieces(stored: StoredLinear, expected: Container[tuple[int, str]]) -> tuple[Piece, ...]:
    """What the node holds, one below the other."""
    name = stored.linear
    if (stored.layer, name) in expected:
        return (Piece(name),)
    if name in HALVES:
        whole, part = HALVES[name]
        return (Piece(whole, part, 2),)
    return tuple(Piece(one) for one in STACKED.get(name, (name,)))


def _compare(name: str, ours: tuple[Tensor, Tensor, Tensor], theirs: QuantizedWeight, rows: slice) -> None:
    pairs = zip(
        ("integers", "scales", "zero points"),
        ours,
        (theirs.integers[rows], theirs.scales[rows], theirs.zeros[rows]),
        strict=True,
    )
    for what, one, other in pairs:
        if one.shape != other.shape:
            raise _differs(f"the {what} of {name} have shape {list(one.shape)}, not {list(other.shape)}")
        wrong = int((one.float() != other.float()).sum())
        if wrong:
            raise _differs(f"{wrong} of {one.numel()} {what} of {name} are not those of the checkpoint")


def _differs(sentence: str) -> QuantizationError:
    return QuantizationError(
        Category.NUMERICAL_FAILURE,
        f"the ONNX graph is not the checkpoint: {sentence}",
        "Use the checkpoint itself, without ModelBuilder, and report the model.",
    )


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Bytes [rows, n] as integers [rows, n * 8 / bits], least significant first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    integers: Tensor = ((packed.unsqueeze(2) >> shifts) & (2**bits - 1)).flatten(1)
    return integers


def _load(tensor: onnx.TensorProto, folder: Path) -> Tensor:
    values: np.ndarray = np.array(onnx.numpy_helper.to_array(tensor, base_dir=str(folder)))
    return torch.from_numpy(values)
