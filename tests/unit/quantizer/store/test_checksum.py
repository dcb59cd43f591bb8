"""Checksums of whole objects from those of their ranges."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizer.store.checksum import CRCS, Crc

pytestmark = pytest.mark.unit

CHECK = {"CRC32": 0xCBF43926, "CRC32C": 0xE3069283, "CRC64NVME": 0xAE8B14860A799888}
"""Of the digits 1 to 9, as the catalogues of CRCs have them."""


def bitwise(crc: Crc, data: bytes) -> int:
    """The definition."""
    register = (1 << crc.width) - 1
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (crc.polynomial if register & 1 else 0)
    return register ^ ((1 << crc.width) - 1)


@pytest.mark.parametrize("name", CRCS)
def test_the_checksum_is_that_of_the_catalogue(name: str) -> None:
    assert CRCS[name].of(b"123456789") == CHECK[name]
    assert CRCS[name].of(b"") == 0


@pytest.mark.parametrize("name", CRCS)
@pytest.mark.parametrize("length", [127, 128, 256, 257, 8191, 8192, 262143, 262144 + 300])
def test_folding_gives_what_the_definition_gives(name: str, length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert CRCS[name].of(data) == bitwise(CRCS[name], data)
    plain = Crc(32, 0xEDB88320 ^ 0)  # zlib's is the same as the folded one
    assert plain._register(memoryview(data), 0xFFFFFFFF) ^ 0xFFFFFFFF == zlib.crc32(data)


@settings(max_examples=50, deadline=None)
@given(first=st.binary(max_size=700), second=st.binary(max_size=700))
@pytest.mark.parametrize("name", CRCS)
def test_a_whole_follows_from_its_parts_and_a_part_from_the_whole(
    name: str, first: bytes, second: bytes
) -> None:
    crc = CRCS[name]
    whole, one, two = crc.of(first + second), crc.of(first), crc.of(second)
    assert crc.joined(one, two, len(second)) == whole
    assert crc.rest(whole, one, len(second)) == two


@pytest.mark.parametrize("name", CRCS)
def test_a_flipped_bit_is_another_checksum(name: str) -> None:
    data = bytearray(np.random.default_rng(0).bytes(300_000))
    before = CRCS[name].of(data)
    for bit in (0, 7, 1_234_567, len(data) * 8 - 1):
        data[bit // 8] ^= 1 << bit % 8
        assert CRCS[name].of(data) != before
        data[bit // 8] ^= 1 << bit % 8
