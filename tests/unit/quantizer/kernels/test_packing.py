"""Packing: the Triton kernel gives the twin's words, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.triton_kernels import DEVICES, run_on
from torch import Tensor

from quantizer.kernels import bit_packing, packing, packing_triton
from quantizer.kernels.bit_packing import period

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
    packed = run_on(device, packing_triton.pack_bits, values, bits)
    assert torch.equal(packed, bit_packing.pack_bits(values, bits))


@pytest.mark.parametrize("device", DEVICES)
def test_the_refusals_are_the_twins(device: str) -> None:
    with pytest.raises(ValueError, match="7 values of 4 bits do not fill whole words; a multiple of 8 does"):
        run_on(device, packing_triton.pack_bits, torch.zeros(7, 2, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="a value does not fit into 4 bits"):
        run_on(device, packing_triton.pack_bits, torch.full((8, 2), 16), 4)


@pytest.mark.parametrize("device", DEVICES)
def test_the_choice_gives_the_same_words_everywhere(device: str) -> None:
    values = integers(3, 96, 40, seed=5)
    packed = run_on(device, packing.pack_bits, values, 3)
    assert torch.equal(packed, packing.pack_bits(values, 3))
