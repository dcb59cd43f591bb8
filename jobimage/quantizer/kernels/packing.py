"""Packing integers into int32 words, on GPU and CPU.

The layout is bit_packing's: along K one continuous stream of bits, least significant bit first; that
module is also the twin. Words of kernel and twin are equal.
"""

from torch import Tensor

from quantizer.kernels import bit_packing
from quantizer.kernels.dispatch import uses_triton


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Packs [n, m] integers below 2^bits along dimension 0 into int32 words [n * bits / 32, m].

    Raises ValueError when n does not fill whole words or a value does not fit, as bit_packing.pack_bits.
    """
    if uses_triton(values.device):
        from quantizer.kernels import packing_triton

        return packing_triton.pack_bits(values, bits)
    return bit_packing.pack_bits(values, bits)
