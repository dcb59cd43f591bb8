"""How the four AWQ versions lay out a 4-bit linear [N, K] with G groups of g columns.

    gemm       qweight int32 [K, N/8]     along N; nibble i of word c is row 8c + ORDER[i]
               qzeros  int32 [G, N/8]     the same order; scales fp16 [G, N]
    gemv       qweight int32 [N, K/8]     along K, in order
               qzeros  int32 [N, W]       along the groups, in order; scales fp16 [N, 8 W]
    gemv_fast  qweight int16 [N/4, K]     see GemvFastLayout
               qzeros  fp16  [8 W, N]     minus scale times zero point; scales fp16 [8 W, N]
    marlin     qweight int32 [K/16, 2 N]  see MarlinLayout; no zero points
               scales  fp16  [G, N]       permuted

W is G/8, rounded up for the kernels' wide loads; what lies beyond G is 0. Zero points have no offset.
The facts are those of AutoAWQ 0.2.9 and of the Marlin kernel (Frantar et al., arXiv 2408.11743).
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from quantizer.algorithms.grid import dequantize
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.formats.interface import TensorShapes, require_symmetric
from quantizer.kernels.bit_packing import pack_bits, unpack_bits

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
REVERSE_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
TILE = 16  # of Marlin: 16 x 16 weights
STRIDE = 64  # columns that gemv_fast stores of one row before the next row of the same four


class Layout(Protocol):
    """One version's layout; g_idx is left out, since AWQ groups lie one after another."""

    tensors: tuple[str, ...]

    def tensor_shapes(self, rows: int, columns: int, group_size: int) -> TensorShapes:
        """Dtype and shape of the tensors of a linear [N, K]."""
        ...

    def pack(self, integers: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
        """Tensors from integers [N, K] uint8, scales [N, G] fp16, zeros [N, G] int64."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor], group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The inverse of pack; group_size -1 is all columns. Zeros are int16 and may be out of range in a bad file."""
        ...

    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """The fp16 weight [N, K] that the kernel computes with."""
        return dequantize(weight.integers, weight.scales.half(), weight.zeros, weight.g_idx).half()


def count_groups(columns: int, group_size: int) -> int:
    """Groups of a row."""
    return 1 if group_size == -1 else columns // group_size


def padded_words(groups: int, group_size: int) -> int:
    """Words of eight zero points that a row has in gemv and gemv_fast: W of the table above."""
    multiple = {64: 2}.get(group_size, 1)
    words = -(-groups // 8)
    return -(-words // multiple) * multiple


def reorder(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """Reorders dimension 0 within every eight."""
    eights = values.reshape(values.shape[0] // 8, 8, *values.shape[1:])
    return eights[:, list(order)].reshape(values.shape)


def pad_groups(values: Tensor, count: int) -> Tensor:
    """Widens [N, G] to [N, count] with zeros."""
    return torch.nn.functional.pad(values, (0, count - values.shape[1]))


class GemmLayout(Layout):
    """Version gemm."""

    tensors: tuple[str, ...] = ("qweight", "qzeros", "scales")

    @override
    def tensor_shapes(self, rows: int, columns: int, group_size: int) -> TensorShapes:
        groups = count_groups(columns, group_size)
        return {
            "qweight": (torch.int32, (columns, rows // 8)),
            "qzeros": (torch.int32, (groups, rows // 8)),
            "scales": (torch.float16, (groups, rows)),
        }

    @override
    def pack(self, integers: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
        return {
            "qweight": pack_bits(reorder(integers, ORDER), BITS).t().contiguous(),
            "qzeros": pack_bits(reorder(zeros, ORDER), BITS).t().contiguous(),
            "scales": scales.t().contiguous(),
        }

    @override
    def unpack(self, tensors: Mapping[str, Tensor], group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        integers = reorder(unpack_bits(tensors["qweight"].t(), BITS), REVERSE_ORDER)
        zeros = reorder(unpack_bits(tensors["qzeros"].t(), BITS), REVERSE_ORDER)
        return integers.contiguous(), tensors["scales"].t().contiguous(), zeros.to(torch.int16)


class GemvLayout(Layout):
    """Version gemv."""

    tensors: tuple[str, ...] = ("qweight", "qzeros", "scales")

    @override
    def tensor_shapes(self, rows: int, columns: int, group_size: int) -> TensorShapes:
        words = padded_words(count_groups(columns, group_size), group_size)
        return {
            "qweight": (torch.int32, (rows, columns // 8)),
            "qzeros": (torch.int32, (rows, words)),
            "scales": (torch.float16, (rows, 8 * words)),
        }

    @override
    def pack(self, integers: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
        groups = zeros.shape[1]
        words = padded_words(groups, integers.shape[1] // groups)
        return {
            "qweight": pack_bits(integers.t(), BITS).t().contiguous(),
            "qzeros": pack_bits(pad_groups(zeros, 8 * words).t(), BITS).t().contiguous(),
            "scales": pad_groups(scales, 8 * words).contiguous(),
        }

    @override
    def unpack(self, tensors: Mapping[str, Tensor], group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        integers = unpack_bits(tensors["qweight"].t(), BITS).t().contiguous()
        groups = count_groups(integers.shape[1], group_size)
        zeros = unpack_bits(tensors["qzeros"].t(), BITS).t()[:, :groups]
        return integers, tensors["scales"][:, :groups].contiguous(), zeros.to(torch.int16).contiguous()


class GemvFastLayout(Layout):
    """Version gemv_fast.

    Columns are reordered within every 32: first as pairs, so that the pairs (c, c + 8, c + 16, c + 24)
    become neighbours, then within every eight by ORDER. Four rows are then interleaved in strides of 64
    columns, and four neighbours make an int16, the first in its lowest nibble.
    """

    tensors: tuple[str, ...] = ("qweight", "qzeros", "scales")

    @override
    def tensor_shapes(self, rows: int, columns: int, group_size: int) -> TensorShapes:
        padded = 8 * padded_words(count_groups(columns, group_size), group_size)
        return {
            "qweight": (torch.int16, (rows // 4, columns)),
            "qzeros": (torch.float16, (padded, rows)),
            "scales": (torch.float16, (padded, rows)),
        }

    @override
    def pack(self, integers: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
        rows, columns = integers.shape
        pairs = integers.view(rows, columns // 32, 4, 4, 2).transpose(2, 3)
        eights = pairs.reshape(rows, columns // 8, 8)[..., list(ORDER)]
        strides = eights.view(rows // 4, 4, columns // STRIDE, STRIDE).transpose(1, 2)
        nibbles = strides.reshape(rows // 4, columns, 2, 2)
        qweight = (nibbles[..., 0] | (nibbles[..., 1] << 4)).view(torch.int16)
        groups = zeros.shape[1]
        padded = 8 * padded_words(groups, columns // groups)
        return {
            "qweight": qweight.view(rows // 4, columns),
            "qzeros": pad_groups(self._offsets(scales, zeros), padded).t().contiguous(),
            "scales": pad_groups(scales, padded).t().contiguous(),
        }

    @override
    def unpack(self, tensors: Mapping[str, Tensor], group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        quarter, columns = tensors["qweight"].shape
        rows, groups = 4 * quarter, count_groups(columns, group_size)
        data = tensors["qweight"].contiguous().view(torch.uint8)
        nibbles = torch.stack((data & 15, data >> 4), dim=-1)
        strides = nibbles.view(quarter, columns // STRIDE, 4, STRIDE).transpose(1, 2)
        eights = strides.reshape(rows, columns // 8, 8)[..., list(REVERSE_ORDER)]
        pairs = eights.view(rows, columns // 32, 4, 4, 2).transpose(2, 3)
        scales = tensors["scales"].t()[:, :groups].contiguous()
        zeros = (-tensors["qzeros"].t()[:, :groups].float() / scales.float()).round()
        zeros = zeros.nan_to_num(nan=-1, posinf=-1, neginf=-1).to(torch.int16)
        return pairs.reshape(rows, columns), scales, zeros

    @override
    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """The product of scale and zero point is rounded on its own."""
        index, half = weight.g_idx.long(), weight.scales.half()
        offsets = self._offsets(half, weight.zeros)
        return (weight.integers.float() * half.float()[:, index] + offsets.float()[:, index]).half()

    @staticmethod
    def _offsets(scales: Tensor, zeros: Tensor) -> Tensor:
        return (-(scales.float() * zeros.float())).half()


class MarlinLayout(Layout):
    """Version marlin: no zero points, the integer is stored with the middle of the grid, 8, added.

    The weight [K, N] is cut into 16 x 16 tiles, each stored row by row; the 1024 weights of four
    neighbouring tiles are permuted so that every thread of the kernel loads its fragments at once, and
    eight neighbours make a word. Scales are permuted within every 64, or every 32 when a row is one group.
    """

    tensors: tuple[str, ...] = ("qweight", "scales")

    @override
    def tensor_shapes(self, rows: int, columns: int, group_size: int) -> TensorShapes:
        return {
            "qweight": (torch.int32, (columns // TILE, rows * TILE // 8)),
            "scales": (torch.float16, (count_groups(columns, group_size), rows)),
        }

    @override
    def pack(self, integers: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
        require_symmetric(zeros, BITS, "awq marlin")
        rows, columns = integers.shape
        tiles = integers.t().reshape(columns // TILE, TILE, rows // TILE, TILE).transpose(1, 2)
        values = tiles.reshape(-1, 1024)[:, _weight_order()].view(columns // TILE, rows * TILE)
        order = _scale_order(scales.shape[1])
        permuted = scales.t().reshape(-1, order.numel())[:, order]
        return {
            "qweight": pack_bits(values.t(), BITS).t().contiguous(),
            "scales": permuted.reshape(-1, rows).contiguous(),
        }

    @override
    def unpack(self, tensors: Mapping[str, Tensor], group_size: int) -> tuple[Tensor, Tensor, Tensor]:
        groups, rows = tensors["scales"].shape
        values = unpack_bits(tensors["qweight"].t(), BITS).t()
        tiles = values.reshape(-1, 1024)[:, _weight_order().argsort()]
        tiles = tiles.view(-1, rows // TILE, TILE, TILE).transpose(1, 2)
        integers = tiles.reshape(-1, rows).t().contiguous()
        order = _scale_order(groups)
        scales = tensors["scales"].reshape(-1, order.numel())[:, order.argsort()].view(groups, rows)
        zeros = torch.full((rows, groups), 8, dtype=torch.int16, device=integers.device)
        return integers, scales.t().contiguous(), zeros


def _weight_order() -> Tensor:
    """Where each of the 1024 stored weights of four tiles lies before: thread by thread, tile by tile.

    Thread 4c + t holds of each tile the rows 2t, 2t + 1, 2t + 8, 2t + 9 of columns c and c + 8.
    """
    places = torch.arange(1024).view(4, 2, 4, 2, 2, 8)  # tile, row / 8, t, row % 2, column / 8, c
    return places.permute(5, 2, 0, 4, 1, 3).reshape(-1, 8)[:, list(ORDER)].flatten()


def _scale_order(groups: int) -> Tensor:
    if groups > 1:
        return torch.arange(64).view(8, 8).t().flatten()
    return torch.arange(32).view(4, 4, 2).transpose(0, 1).flatten()


LAYOUTS: dict[str, Layout] = {
    "gemm": GemmLayout(),
    "gemv": GemvLayout(),
    "gemv_fast": GemvFastLayout(),
    "marlin": MarlinLayout(),
}
