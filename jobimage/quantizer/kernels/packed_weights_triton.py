"""The Triton kernels of packed_weights; every output is made by one program, so nothing is summed or raced.

pack          a program makes one row of words for COLUMNS columns. Word w holds bits [32 w, 32 w + 32) of
              the stream; the values that reach into them begin with number 32 w / bits. Where 32 is no
              multiple of bits, the first value lacks its low bits and the last one its high bits.
dequantize    a program makes a tile of VALUES inputs x COLUMNS outputs. Words are read along N and weights
              written along K; the transposition is made in the program, so that both are contiguous. A
              value that crosses a word takes its high bits from the next one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantizer.formats.bit_packing import period

PACK_COLUMNS = 256
VALUES, COLUMNS = 64, 32
TYPES = {torch.float32: tl.float32, torch.float16: tl.float16}


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


@triton.jit  # type: ignore[untyped-decorator]
def dequantize_kernel(  # type: ignore[no-untyped-def]
    packed_ptr,
    scales_ptr,
    zeros_ptr,
    group_of_ptr,
    weights_ptr,
    values,
    columns,
    words,
    groups,
    BITS: tl.constexpr,
    VALUES: tl.constexpr,
    COLUMNS: tl.constexpr,
    TYPE: tl.constexpr,
):
    """packed [words, columns], scales and zeros [columns, groups] -> weights [columns, values]."""
    value = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (value < values)[:, None] & (column < columns)[None, :]
    word, shift = value * BITS // 32, (value * BITS % 32).to(tl.uint32)
    offsets = word.to(tl.int64)[:, None] * columns + column[None, :]
    integers = (
        tl.load(packed_ptr + offsets, mask=inside, other=0).to(tl.uint32, bitcast=True) >> shift[:, None]
    )
    if 32 % BITS != 0:
        crosses = inside & (shift + BITS > 32)[:, None] & (word + 1 < words)[:, None]
        high = tl.load(packed_ptr + offsets + columns, mask=crosses, other=0).to(tl.uint32, bitcast=True)
        integers |= high << ((32 - shift) % 32)[:, None]  # where nothing crosses, high is 0
    integers = tl.trans(integers & (2**BITS - 1)).to(tl.float32)
    group = tl.load(group_of_ptr + value, mask=value < values, other=0)
    grid = column.to(tl.int64)[:, None] * groups + group[None, :]
    turned = (column < columns)[:, None] & (value < values)[None, :]
    zero = tl.load(zeros_ptr + grid, mask=turned, other=0.0)
    scale = tl.load(scales_ptr + grid, mask=turned, other=0.0)
    weights = ((integers - zero) * scale).to(TYPE)
    tl.store(weights_ptr + column.to(tl.int64)[:, None] * values + value[None, :], weights, turned)


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """See packed_weights.pack_bits."""
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


def dequantize_packed(
    packed: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor, bits: int, dtype: torch.dtype
) -> Tensor:
    """See packed_weights.dequantize_packed; all tensors lie on one device."""
    count, words = period(bits)
    rows, columns = packed.shape
    if rows % words:
        raise ValueError(f"{rows} words of {bits}-bit values are not whole; a multiple of {words} is")
    values = rows // words * count
    weights = torch.empty((columns, values), dtype=dtype, device=packed.device)
    if weights.numel():
        dequantize_kernel[(triton.cdiv(values, VALUES), triton.cdiv(columns, COLUMNS))](
            packed.contiguous(),
            scales.float().contiguous(),
            zeros.float().contiguous(),
            group_of.to(torch.int32).contiguous(),
            weights,
            values,
            columns,
            rows,
            scales.shape[1],
            BITS=bits,
            VALUES=VALUES,
            COLUMNS=COLUMNS,
            TYPE=TYPES[dtype],
        )
    return weights
