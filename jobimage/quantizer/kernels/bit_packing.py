"""Small unsigned integers as one continuous stream of bits in int32 words, least significant bit first.

bits  values  words        value i of a period occupies bits [i*b, (i+1)*b) of the stream, which may
   2      16      1        cross a word: with 3 bits value 10 has two bits at the top of word 0 and
   3      32      3        one at the bottom of word 1.
   4       8      1
   8       4      1

Where a word holds whole values (all but 3 bits) neighbouring bytes are merged, 8 bits -> 4 -> 2, and four bytes are
a word: the machine has to be little-endian, as all that torch is built for are.
"""

import math

import torch
from torch import Tensor

AT_ONCE = 512  # columns that are worked on at a time


def period(bits: int) -> tuple[int, int]:
    """(values, words) after which the pattern repeats."""
    common = math.gcd(bits, 32)
    return 32 // common, bits // common


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Packs [n, m] integers below 2^bits along dimension 0 into int32 words [n*bits/32, m].

    Raises ValueError when n is no multiple of the period or a value does not fit.
    """
    count, words = period(bits)
    rows, columns = values.shape
    if rows % count:
        raise ValueError(f"{rows} values of {bits} bits do not fill whole words; a multiple of {count} does")
    if rows and columns and (int(values.min()) < 0 or int(values.max()) >= 2**bits):
        raise ValueError(f"a value does not fit into {bits} bits")
    packed = torch.empty((rows // count, words, columns), dtype=torch.int32, device=values.device)
    for first in range(0, columns, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        if words == 1:
            packed[:, 0, part] = _merged(_rows(values[:, part].to(torch.uint8)), bits).t()
            continue
        wide = values[:, part].to(torch.int64).view(rows // count, count, -1)
        stream = torch.zeros((rows // count, words, wide.shape[2]), dtype=torch.int64, device=values.device)
        for index in range(count):
            word, shift = divmod(index * bits, 32)
            stream[:, word] |= (wide[:, index] << shift) & 0xFFFFFFFF
            if shift + bits > 32:
                stream[:, word + 1] |= wide[:, index] >> (32 - shift)
        packed[:, :, part] = torch.where(stream >= 2**31, stream - 2**32, stream)
    return packed.view(rows // count * words, columns)


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """The inverse of pack_bits: uint8 [words*32/bits, m]."""
    count, words = period(bits)
    rows, columns = packed.shape
    if rows % words:
        raise ValueError(f"{rows} words do not hold whole {bits}-bit values; a multiple of {words} does")
    values = torch.empty((rows // words, count, columns), dtype=torch.uint8, device=packed.device)
    for first in range(0, columns, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        if words == 1:
            values[:, :, part] = _split(_rows(packed[:, part]), bits).t().view(rows, count, -1)
            continue
        stream = packed[:, part].to(torch.int64).view(rows // words, words, -1) & 0xFFFFFFFF
        for index in range(count):
            word, shift = divmod(index * bits, 32)
            value = stream[:, word] >> shift
            if shift + bits > 32:
                value |= stream[:, word + 1] << (32 - shift)
            values[:, index, part] = (value & (2**bits - 1)).to(torch.uint8)
    return values.view(rows // words * count, columns)


def _rows(columns: Tensor) -> Tensor:
    """The transposed matrix, its strides those of its shape even where a dimension is 1, so that it can be recast."""
    return columns.t().clone(memory_format=torch.contiguous_format)


def _merged(values: Tensor, bits: int) -> Tensor:
    """Words [m, n * bits / 32] int32 of values [m, n] uint8: neighbouring bytes become one until they are full."""
    while bits < 8:
        pairs = values.view(torch.int16)  # the first value in the low byte, the second in the high one
        values = (pairs | (pairs >> (8 - bits))).to(torch.uint8)
        bits *= 2
    return values.view(torch.int32)


def _split(words: Tensor, bits: int) -> Tensor:
    """The inverse of _merged."""
    values, width = words.view(torch.uint8), 8
    while width > bits:
        width //= 2
        pairs = values.to(torch.int16)
        low = 2**width - 1
        values = ((pairs | (pairs << (8 - width))) & (low | low << 8)).view(torch.uint8)
    return values
