"""The gptq format: what is packed comes back, and lies where the format says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.formats.gptq import GptqFormat
from quantizer.kernels.bit_packing import pack_bits, period, unpack_bits

pytestmark = pytest.mark.unit

BITS = st.sampled_from((2, 3, 4, 8))


@given(BITS, st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_packed_integers_come_back(bits: int, periods: int, columns: int, seed: int) -> None:
    count, words = period(bits)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2**bits, (periods * count, columns), generator=generator, dtype=torch.uint8)
    packed = pack_bits(values, bits)
    assert packed.shape == (periods * words, columns)
    assert torch.equal(unpack_bits(packed, bits), values)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_words_are_one_stream_of_bits_least_significant_first(bits: int) -> None:
    values = torch.arange(32) * 7 % 2**bits
    stream = sum(int(value) << (index * bits) for index, value in enumerate(values))
    expected = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(bits)]
    packed = pack_bits(values.unsqueeze(1), bits).squeeze(1)
    assert [int(word) & 0xFFFFFFFF for word in packed] == expected


@given(BITS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_a_linear_comes_back_from_its_tensors(
    bits: int, rows: int, columns: int, groups: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, k = 32 * rows, 32 * columns
    integers = torch.randint(0, 2**bits, (n, k), generator=generator, dtype=torch.uint8)
    scales = torch.rand(n, groups, generator=generator).half() + 0.01
    zeros = torch.randint(1, 2**bits, (n, groups), generator=generator)
    g_idx = torch.randint(0, groups, (k,), generator=generator)
    tensors = GptqFormat(bits).pack(QuantizedWeight(integers, scales, zeros, g_idx))
    shapes = GptqFormat(bits).tensor_shapes(n, k, groups)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == shapes
    back = GptqFormat(bits).unpack("linear", tensors)
    assert torch.equal(back.integers, integers)
    assert torch.equal(back.scales, scales)
    assert torch.equal(back.zeros, zeros.to(torch.int16))
    assert torch.equal(back.g_idx, g_idx.int())


def test_the_zero_point_is_stored_minus_one() -> None:
    zeros = torch.full((8, 1), 8)
    tensors = GptqFormat(4).pack(QuantizedWeight(torch.zeros(8, 8), torch.ones(8, 1), zeros, torch.zeros(8)))
    assert tensors["qzeros"].tolist() == [[0x77777777]]


def test_a_zero_point_that_would_wrap_is_never_packed() -> None:
    with pytest.raises(ValueError, match="wrap"):
        GptqFormat(4).pack(
            QuantizedWeight(torch.zeros(8, 8), torch.ones(8, 1), torch.zeros(8, 1), torch.zeros(8))
        )


def test_a_wrapped_zero_point_in_a_file_is_refused_by_name() -> None:
    tensors = GptqFormat(4).pack(
        QuantizedWeight(torch.zeros(8, 8), torch.ones(8, 1), torch.ones(8, 1), torch.zeros(8))
    )
    tensors["qzeros"] = torch.full_like(tensors["qzeros"], -1)
    with pytest.raises(QuantizationError, match=r"q_proj has a zero point that wrapped") as caught:
        GptqFormat(4).unpack("q_proj", tensors)
    assert caught.value.category is Category.ARTIFACT_CORRUPT


def test_a_group_that_does_not_exist_is_refused_by_name() -> None:
    tensors = GptqFormat(4).pack(
        QuantizedWeight(torch.zeros(8, 8), torch.ones(8, 1), torch.ones(8, 1), torch.zeros(8))
    )
    tensors["g_idx"] = torch.full_like(tensors["g_idx"], 3)
    with pytest.raises(QuantizationError, match="q_proj has columns of groups that do not exist"):
        GptqFormat(4).unpack("q_proj", tensors)


@pytest.mark.parametrize(("bits", "size"), [(2, 16), (3, 32), (4, 8), (8, 4)])
def test_sizes_that_do_not_fill_words_are_refused_with_the_multiple(bits: int, size: int) -> None:
    GptqFormat(bits, group_size=-1).check_shape("down_proj", size, 2 * size)
    with pytest.raises(QuantizationError, match=f"down_proj has {size + 1} outputs.*multiples of {size}"):
        GptqFormat(bits, group_size=-1).check_shape("down_proj", size + 1, size)


def test_a_value_that_does_not_fit_its_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit into 4 bits"):
        pack_bits(torch.full((8, 1), 16), 4)
