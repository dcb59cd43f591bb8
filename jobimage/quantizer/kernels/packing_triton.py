"""The Triton kernel of packing; every word is made by one program, so nothing is summed or raced.

A program makes one row of words for COLUMNS columns. Word w holds bits [32 w, 32 w + 32) of the stream; the values
that reach into them begin with number 32 w / bits. Where 32 is no multiple of bits, the first value lacks its low
bits and the last one its high bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantizer.kernels.bit_packing import period

PACK_COLUMNS = 256


@triton.jit  # type: ignore[untyped-decorator]
def pack_kernel(  # type: ignore[no-untyped-def]
    values_ptr, packed_ptr, values, columns, BITS: tl.constexpr, REACH: tl.constexpr, COLUMNS: tl.constexpr
):
    """values [n, columns] uint8 -> packed [n * BITS / 32, columns]; REACH values at most touch a word."""
    word = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = word * 32 // BITS
    result = tl.zeros((COLUMNS,), dtype=tl.uint32)
    for index in tl.static_range(REACH):
        number = first + index
        shift = number * BITS - word * 32
        mask = (column < columns) & (number < values) & (shift < 32)
        value = tl.load(values_ptr + number.to(tl.int64) * columns + column, mask=mask, other=0).to(tl.uint32)
        result |= (value << tl.maximum(shift, 0).to(tl.uint32)) >> tl.maximum(-shift, 0).to(tl.uint32)
    tl.store(
        packed_ptr + word.to(tl.int64) * columns + column, result.to(tl.int32, bitcast=True), column < columns
    )


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """See packing.pack_bits."""
    count, words = period(bits)
    rows, columns = values.shape
    if rows % count:
        raise ValueError(f"{rows} values of {bits} bits do not fill whole words; a multiple of {count} does")
    if rows and columns and (int(values.min()) < 0 or int(values.max()) >= 2**bits):
        raise ValueError(f"a value does not fit into {bits} bits")
    packed = torch.empty((rows // count * words, columns), dtype=torch.int32, device=values.device)
    if packed.numel():
        pack_kernel[(packed.shape[0], triton.cdiv(columns, PACK_COLUMNS))](
            values.to(torch.uint8).contiguous(),
            packed,
            rows,
            columns,
            BITS=bits,
            REACH=triton.cdiv(32, bits) + (32 % bits > 0),
            COLUMNS=PACK_COLUMNS,
        )
    return packed
