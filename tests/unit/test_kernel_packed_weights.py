"""Packing and reading packed weights: the Triton kernels give the twin's words and weights, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.triton_kernels import DEVICES, run_on
from torch import Tensor

from quantizer.formats import bit_packing
from quantizer.formats.bit_packing import period
from quantizer.kernels import packed_weights, packed_weights_triton
from quantizer.kernels.packed_weights import dequantize_packed_plain

pytestmark = pytest.mark.unit

BITS = (2, 3, 4, 8)
FEW = settings(max_examples=20, deadline=None)  # the first example waits for the interpreter's process
DEVICE = st.sampled_from(DEVICES)


def integers(bits: int, rows: int, columns: int, seed: int) -> Tensor:
    """Random integers below 2^bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)


@FEW
@given(DEVICE, st.sampled_from(BITS), st.integers(1, 5), st.integers(1, 300), st.integers(0, 2**31))
def test_words_are_the_twins(device: str, bits: int, periods: int, columns: int, seed: int) -> None:
    values = integers(bits, periods * period(bits)[0], columns, seed)
    packed = run_on(device, packed_weights_triton.pack_bits, values, bits)
    assert torch.equal(packed, bit_packing.pack_bits(values, bits))


@FEW
@given(
    DEVICE,
    st.sampled_from(BITS),
    st.integers(1, 7),
    st.integers(1, 70),
    st.integers(1, 5),
    st.sampled_from((torch.float32, torch.float16)),
    st.integers(0, 2**31),
)
def test_weights_are_the_twins(
    device: str, bits: int, periods: int, outputs: int, groups: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = periods * period(bits)[0]
    packed = bit_packing.pack_bits(integers(bits, inputs, outputs, seed), bits)
    scales = torch.rand(outputs, groups, generator=generator) + 0.01
    zeros = torch.randint(0, 2**bits, (outputs, groups), generator=generator).float()
    group_of = torch.randint(0, groups, (inputs,), generator=generator)
    arguments = (packed, scales, zeros, group_of, bits, dtype)
    weights = run_on(device, packed_weights_triton.dequantize_packed, *arguments)
    assert weights.dtype is dtype
    assert torch.equal(weights, dequantize_packed_plain(*arguments))


@FEW
@given(DEVICE, st.sampled_from(BITS), st.integers(1, 7), st.integers(1, 70), st.integers(0, 2**31))
def test_packed_integers_come_back_as_weights(
    device: str, bits: int, periods: int, outputs: int, seed: int
) -> None:
    values = integers(bits, periods * period(bits)[0], outputs, seed)
    packed = run_on(device, packed_weights_triton.pack_bits, values, bits)
    grid = torch.ones(outputs, 1), torch.zeros(outputs, 1), torch.zeros(len(values), dtype=torch.int32)
    read = run_on(device, packed_weights_triton.dequantize_packed, packed, *grid, bits, torch.float32)
    assert torch.equal(read, values.t().float())


@pytest.mark.parametrize("bits", BITS)
def test_half_precision_weights_are_those_of_a_reader_that_multiplies_in_half_precision(bits: int) -> None:
    values = integers(bits, 64, 48, seed=1)
    scales = (torch.rand(48, 2, generator=torch.Generator().manual_seed(2)) * 0.01).half()
    zeros = integers(bits, 48, 2, seed=3)
    group_of = torch.arange(64) // 32
    packed = bit_packing.pack_bits(values, bits)
    read = packed_weights.dequantize_packed(packed, scales, zeros, group_of, bits, torch.float16)
    assert torch.equal(read, (values.t().half() - zeros.half()[:, group_of]) * scales[:, group_of])


@pytest.mark.parametrize("device", DEVICES)
def test_the_refusals_are_the_twins(device: str) -> None:
    with pytest.raises(ValueError, match="7 values of 4 bits do not fill whole words; a multiple of 8 does"):
        run_on(device, packed_weights_triton.pack_bits, torch.zeros(7, 2, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="a value does not fit into 4 bits"):
        run_on(device, packed_weights_triton.pack_bits, torch.full((8, 2), 16), 4)
    with pytest.raises(ValueError, match="4 words of 3-bit values are not whole; a multiple of 3 is"):
        run_on(
            device,
            packed_weights_triton.dequantize_packed,
            torch.zeros(4, 2, dtype=torch.int32),
            torch.ones(2, 1),
            torch.ones(2, 1),
            torch.zeros(32),
            3,
            torch.float32,
        )


def test_a_type_that_no_reader_computes_in_is_refused() -> None:
    grids = torch.ones(4, 1), torch.ones(4, 1), torch.zeros(8, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"float32 or float16, not torch\.bfloat16"):
        packed_weights.dequantize_packed(torch.zeros(1, 4, dtype=torch.int32), *grids, 4, torch.bfloat16)


@pytest.mark.parametrize("device", DEVICES)
def test_the_choice_gives_the_same_words_and_weights_everywhere(device: str) -> None:
    values = integers(3, 96, 40, seed=5)
    packed = run_on(device, packed_weights.pack_bits, values, 3)
    assert torch.equal(packed, packed_weights.pack_bits(values, 3))
    grids = torch.rand(40, 3), torch.ones(40, 3), torch.arange(96) // 32
    read = run_on(device, packed_weights.dequantize_packed, packed, *grids, 3, torch.float16)
    assert torch.equal(read, packed_weights.dequantize_packed(packed, *grids, 3, torch.float16))
