"""Checksums of whole objects, put together from those of their ranges in any order of reading.

A CRC is the remainder of the bytes as a polynomial over GF(2), so that of a concatenation follows from those of the
parts: crc(AB) = crc(A) * x^(8 |B|) + crc(B). Long buffers are folded: rows of words are multiplied by a
constant power of x and added to the next row, which numpy does for all words of a row at once; what remains is one row
with the same remainder. (The idea is that of Gopal et al., "Fast CRC Computation for Generic Polynomials Using
PCLMULQDQ Instruction", Intel 2009; here tables of 16 bits do the multiplication.)

Polynomials are reflected, as the checksums of S3 are: the lowest bit of the first byte has the highest power.
"""

import zlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

ROWS = (16384, 512, 16)
"""Words in a row, from the first folding to the last."""
WORD_BYTES, WORD_BITS, TABLE_BITS = 8, 64, 16

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Crc:
    """A reflected CRC whose register starts with ones and is inverted at the end, as all of S3's are."""

    width: int
    """In bits, at most 64."""
    polynomial: int
    """Reflected, without its highest term."""

    def of(self, data: bytes | bytearray | memoryview) -> int:
        """The checksum of a buffer; of an empty one it is 0."""
        view = memoryview(data).cast("B")
        if self == CRC32:
            return zlib.crc32(view)
        ones = (1 << self.width) - 1
        return self._register(view, ones) ^ ones

    def joined(self, first: int, second: int, length: int) -> int:
        """The checksum of two buffers in a row; length: of the second, in bytes."""
        return _times(self, first, _power(self, 8 * length)) ^ second

    def rest(self, both: int, first: int, length: int) -> int:
        """The checksum of the second of two buffers, from that of both and that of the first."""
        return self.joined(first, both, length)  # the sum of two equal terms is nothing

    def _register(self, view: memoryview, register: int) -> int:
        """The register after the bytes of the view."""
        for words in ROWS:
            row = words * WORD_BYTES
            whole = len(view) // row * row
            if whole >= 2 * row:
                register = self._register(memoryview(self._folded(view[:whole], register, words)), 0)
                view = view[whole:]
        table = _byte_table(self)
        for byte in view:
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
        return register

    def _folded(self, view: memoryview, register: int, words: int) -> bytes:
        """One row with the remainder of all of them; the register is added to the first bytes."""
        rows = np.frombuffer(view, dtype="<u8").reshape(-1, words)
        tables = _folding_tables(self, words)
        total: Words = rows[0].copy()
        product, part = np.empty(words, np.uint64), np.empty(words, np.uint64)
        total[0] ^= np.uint64(register)
        for row in rows[1:]:
            digits = total.view("<u2").reshape(words, -1)
            np.take(tables[0], digits[:, 0], out=product, mode="clip")
            for number in range(1, len(tables)):
                np.take(tables[number], digits[:, number], out=part, mode="clip")
                np.bitwise_xor(product, part, out=product)
            np.bitwise_xor(product, row, out=total)
        return bytes(total.data)


CRC32 = Crc(32, 0xEDB88320)
CRCS = {"CRC32": CRC32, "CRC32C": Crc(32, 0x82F63B78), "CRC64NVME": Crc(64, 0x9A6C9329AC4BC9B5)}
"""By the name that S3 gives them, the cheapest first."""


def _next(crc: Crc, value: int) -> int:
    """The value times x."""
    return (value >> 1) ^ (crc.polynomial if value & 1 else 0)


def _times(crc: Crc, one: int, other: int) -> int:
    """A product of remainders; the highest bit of a value is the coefficient of 1."""
    product = 0
    for bit in range(crc.width - 1, -1, -1):
        if other >> bit & 1:
            product ^= one
        one = _next(crc, one)
    return product


@cache
def _square(crc: Crc, exponent: int) -> int:
    """The remainder of x to the power of 2^exponent."""
    if exponent == 0:
        return 1 << (crc.width - 2)
    half = _square(crc, exponent - 1)
    return _times(crc, half, half)


@lru_cache(maxsize=4096)
def _power(crc: Crc, bits: int) -> int:
    """The remainder of x to the power of `bits`."""
    result = 1 << (crc.width - 1)
    for exponent in range(bits.bit_length()):
        if bits >> exponent & 1:
            result = _times(crc, result, _square(crc, exponent))
    return result


@cache
def _byte_table(crc: Crc) -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = _next(crc, value)
        table.append(value)
    return table


@cache
def _folding_tables(crc: Crc, words: int) -> list[Words]:
    """What each digit of TABLE_BITS bits of a word becomes, multiplied by x to the power of the bits of a row."""
    images, value = [0] * WORD_BITS, _power(crc, words * WORD_BITS)
    for bit in range(WORD_BITS - 1, -1, -1):
        images[bit] = value << (WORD_BITS - crc.width)
        value = _next(crc, value)
    return [_table(images[at : at + TABLE_BITS]) for at in range(0, WORD_BITS, TABLE_BITS)]


def _table(images: list[int]) -> Words:
    """The sum of the images of the bits that are set, for every digit."""
    table = np.zeros(1, np.uint64)
    for image in images:
        table = np.concatenate([table, table ^ np.uint64(image)])
    return table
