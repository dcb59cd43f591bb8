"""Packing integers into int32 words, and reading packed weights back, on GPU and CPU.

The layout is formats.bit_packing's: along K one continuous stream of bits, least significant bit first; that
module, with grid.dequantize, is also the twin. Words and integers of kernel and twin are equal; so are the
weights, bit for bit: (q - zero) is a small integer, its product with the scale is rounded once in float32,
and once more when a narrower type is asked for.

For a scale that float16 holds exactly the product is exact in float32 (11 + 9 significant bits of 24), so a
float16 weight equals the one of a reader that multiplies in float16.
"""

import torch
from torch import Tensor

from quantizer.formats import bit_packing
from quantizer.kernels.dispatch import uses_triton
from quantizer.passes.grid import dequantize


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Packs [n, m] integers below 2^bits along dimension 0 into int32 words [n * bits / 32, m].

    Raises ValueError when n does not fill whole words or a value does not fit, as bit_packing.pack_bits.
    """
    if uses_triton(values.device):
        from quantizer.kernels import packed_weights_triton

        return packed_weights_triton.pack_bits(values, bits)
    return bit_packing.pack_bits(values, bits)


def dequantize_packed(
    packed: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor, bits: int, dtype: torch.dtype
) -> Tensor:
    """The weights (q - zero) * scale of a packed linear.

    Args:
        packed: [K * bits / 32, N] int32, packed along K.
        scales, zeros: [N, G], the grids; zeros as they are, without a format's offset.
        group_of: [K] the group of each input.
        dtype: float32 or float16.

    Returns:
        [N, K] in dtype.

    Raises ValueError when the words are not whole or the dtype is another.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"weights are read as float32 or float16, not {dtype}")
    if uses_triton(packed.device):
        from quantizer.kernels import packed_weights_triton

        return packed_weights_triton.dequantize_packed(packed, scales, zeros, group_of, bits, dtype)
    return dequantize_packed_plain(packed, scales, zeros, group_of, bits, dtype)


def dequantize_packed_plain(
    packed: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor, bits: int, dtype: torch.dtype
) -> Tensor:
    """The twin of the kernel: as dequantize_packed."""
    integers = bit_packing.unpack_bits(packed, bits).t()
    return dequantize(integers, scales, zeros, group_of).to(dtype).contiguous()
