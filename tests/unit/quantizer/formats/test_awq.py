"""The awq formats: what is packed comes back, and lies where each version's kernel looks for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.formats import random_linear

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.formats.awq import AwqFormat
from quantizer.formats.reading import stored_format

pytestmark = pytest.mark.unit

VERSIONS = {  # version: group size, zero point, multiples of outputs and inputs
    "gemm": (32, True, 8, 32),
    "gemv": (64, True, 8, 64),
    "gemv_fast": (128, True, 8, 128),
    "marlin": (128, False, 256, 128),
}


def made(version: str) -> AwqFormat:
    """A version with parameters that it takes."""
    group_size, zero_point, _, _ = VERSIONS[version]
    return AwqFormat(version, 4, group_size, zero_point)


@pytest.mark.parametrize("version", VERSIONS)
@given(rows=st.integers(1, 3), groups=st.integers(1, 10), seed=st.integers(0, 2**31))
def test_a_linear_comes_back_bit_by_bit(version: str, rows: int, groups: int, seed: int) -> None:
    group_size, zero_point, outputs, _ = VERSIONS[version]
    n, k = outputs * rows, group_size * groups
    linear = random_linear(n, k, groups, 4, seed, symmetric=not zero_point)
    written = made(version)
    tensors = written.pack(QuantizedWeight(*linear))
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert shapes == written.tensor_shapes(n, k, groups)
    assert tuple(shapes) == written.tensors
    back = written.unpack("linear", tensors)
    for ours, theirs in zip((back.integers, back.scales, back.zeros, back.g_idx), linear, strict=True):
        assert torch.equal(ours, theirs)


@given(zero=st.integers(0, 15), bits_of_scale=st.integers(1, 0x7BFF))
def test_gemv_fast_gives_every_zero_point_back_from_its_product_with_the_scale(
    zero: int, bits_of_scale: int
) -> None:
    scale = torch.tensor([bits_of_scale], dtype=torch.int16).view(torch.float16)
    if float(scale) * zero > 65504:
        return  # a product that float16 cannot hold
    integers = torch.zeros(8, 128, dtype=torch.uint8)
    written = made("gemv_fast")
    tensors = written.pack(
        QuantizedWeight(integers, scale.expand(8, 1), torch.full((8, 1), zero), torch.zeros(128))
    )
    assert written.unpack("linear", tensors).zeros.unique().tolist() == [zero]


def single(row: int, column: int, rows: int, columns: int) -> torch.Tensor:
    """Integers that are all 0 but for a 15."""
    integers = torch.zeros(rows, columns, dtype=torch.uint8)
    integers[row, column] = 15
    return integers


def nibble(qweight: torch.Tensor) -> tuple[int, int, int]:
    """(row, column, position) of the one nibble of a packed tensor that is 15; the others are 0."""
    size = qweight.element_size()
    row, column = (int(index) for index in qweight.nonzero().squeeze(0))
    value = int(qweight[row, column]) & (2 ** (8 * size) - 1)
    position = value.bit_length() // 4 - 1
    assert value == 15 << (4 * position)
    return row, column, position


def test_gemm_interleaves_eight_outputs_in_a_word() -> None:
    integers = torch.arange(8, dtype=torch.uint8).repeat(2).unsqueeze(1).expand(16, 16)
    zeros = torch.arange(8).repeat(2).unsqueeze(1)
    tensors = AwqFormat("gemm", 4, 16).pack(
        QuantizedWeight(integers, torch.ones(16, 1), zeros, torch.zeros(16))
    )
    assert tensors["qweight"].shape == (16, 2)
    assert tensors["qweight"].unique().tolist() == [0x75316420]  # nibbles 0 2 4 6 1 3 5 7, lowest first
    assert tensors["qzeros"].tolist() == [[0x75316420, 0x75316420]]


def test_gemv_packs_inputs_in_order_and_fills_the_groups_up() -> None:
    integers = torch.arange(8, dtype=torch.uint8).repeat(24).expand(8, 192)
    zeros = torch.tensor([[1, 2, 3]]).expand(8, 3)
    tensors = AwqFormat("gemv", 4, 64).pack(
        QuantizedWeight(integers, torch.ones(8, 3), zeros, torch.arange(192) // 64)
    )
    assert tensors["qweight"].unique().tolist() == [0x76543210]
    assert tensors["qzeros"][0].tolist() == [0x321, 0]  # a multiple of two words with groups of 64
    assert tensors["scales"][0].tolist() == [1, 1, 1] + [0] * 13


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [  # worked out from the layout's description
        (0, 0, (0, 0, 0)),
        (0, 1, (0, 1, 0)),  # second of its pair: the odd half of its eight
        (0, 8, (0, 0, 1)),  # next pair of pairs: the neighbour
        (0, 2, (0, 2, 0)),  # pair 1: after the pairs 0, 4, 8, 12
        (0, 33, (0, 9, 0)),  # the next 32 columns
        (1, 0, (0, 16, 0)),  # second row of four: after a stride of 64 columns
        (3, 64, (0, 112, 0)),  # the second stride of the fourth row
        (4, 24, (1, 0, 3)),  # the next four rows
    ],
)
def test_gemv_fast_interleaves_four_rows_and_pairs_of_columns(
    row: int, column: int, place: tuple[int, int, int]
) -> None:
    integers = single(row, column, 8, 128)
    tensors = made("gemv_fast").pack(
        QuantizedWeight(integers, torch.ones(8, 1), torch.ones(8, 1), torch.zeros(128))
    )
    assert nibble(tensors["qweight"]) == place


def test_gemv_fast_stores_minus_the_scale_times_the_zero_point() -> None:
    grid = (torch.full((8, 1), 0.5), torch.full((8, 1), 3), torch.zeros(128))
    tensors = made("gemv_fast").pack(QuantizedWeight(torch.zeros(8, 128, dtype=torch.uint8), *grid))
    assert tensors["qzeros"][:, 0].tolist() == [-1.5] + [0] * 7


@pytest.mark.parametrize(
    ("output", "column", "place"),
    [  # a word belongs to thread 4 (output % 8) + (input % 8) / 2 and one of four tiles, side by side
        (0, 0, (0, 0, 0)),
        (0, 1, (0, 0, 4)),  # thread 0, second of its eight
        (0, 8, (0, 0, 1)),  # third of its eight
        (8, 0, (0, 0, 2)),  # fifth of its eight
        (0, 2, (0, 4, 0)),  # thread 1
        (1, 0, (0, 16, 0)),  # thread 4
        (16, 0, (0, 1, 0)),  # second tile
        (64, 0, (0, 128, 0)),  # the next four tiles
        (0, 16, (1, 0, 0)),  # the next 16 inputs
    ],
)
def test_marlin_gives_every_thread_its_eight_weights_in_one_word(
    output: int, column: int, place: tuple[int, int, int]
) -> None:
    integers = single(output, column, 256, 128)
    grid = (torch.ones(256, 1), torch.full((256, 1), 8), torch.zeros(128))
    tensors = made("marlin").pack(QuantizedWeight(integers, *grid))
    assert nibble(tensors["qweight"]) == place


def test_marlin_permutes_scales_in_64_or_with_one_group_a_row_in_32() -> None:
    integers = torch.zeros(256, 256, dtype=torch.uint8)
    scales = torch.arange(256).unsqueeze(1).half()
    several = made("marlin").pack(
        QuantizedWeight(integers, scales.expand(256, 2), torch.full((256, 2), 8), torch.arange(256) // 128)
    )
    assert several["scales"][0, :10].tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 1, 9]
    single_group = made("marlin").pack(
        QuantizedWeight(integers[:, :128], scales, torch.full((256, 1), 8), torch.zeros(128))
    )
    assert single_group["scales"][0, :10].tolist() == [0, 1, 8, 9, 16, 17, 24, 25, 2, 3]


@pytest.mark.parametrize(
    ("version", "bits", "group_size", "zero_point"),
    [
        ("exllama", 4, 128, True),
        ("gemm", 8, 128, True),
        ("gemm", 4, 48, True),
        ("gemv", 4, 32, True),
        ("gemv_fast", 4, 64, True),
        ("marlin", 4, -1, False),
        ("gemv", 4, 128, False),
        ("gemv_fast", 4, 128, False),
        ("marlin", 4, 128, True),
    ],
)
def test_a_config_that_no_version_can_hold_is_a_corrupt_artifact(
    version: str, bits: int, group_size: int, zero_point: bool
) -> None:
    said = {"version": version, "bits": bits, "group_size": group_size, "zero_point": zero_point}
    with pytest.raises(QuantizationError, match="AWQ has no such format") as caught:
        stored_format({"quantization_config": {"quant_method": "awq", **said}})
    assert caught.value.category is Category.ARTIFACT_CORRUPT


@pytest.mark.parametrize(
    ("version", "rows", "columns", "sentence"),
    [
        ("gemm", 12, 64, "down_proj has 12 outputs; awq version gemm takes multiples of 8 only"),
        ("gemv_fast", 12, 128, "multiples of 8 only"),
        ("marlin", 128, 128, "down_proj has 128 outputs; awq version marlin takes multiples of 256 only"),
        ("gemm", 8, 48, "group_size 32 does not divide the 48 inputs of down_proj"),
    ],
)
def test_sizes_that_a_version_cannot_take_are_refused_by_name(
    version: str, rows: int, columns: int, sentence: str
) -> None:
    with pytest.raises(QuantizationError, match=sentence):
        made(version).check_shape("down_proj", rows, columns)


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_that_are_not_grouped_as_they_lie_are_never_packed(version: str) -> None:
    group_size, zero_point, rows, _ = VERSIONS[version]
    integers, scales, zeros, g_idx = random_linear(rows, 2 * group_size, 2, 4, 0, symmetric=not zero_point)
    with pytest.raises(ValueError, match="groups must lie one after another"):
        made(version).pack(QuantizedWeight(integers, scales, zeros, g_idx.flip(0)))


def test_a_zero_point_that_cannot_be_is_refused_by_name() -> None:
    written = made("gemv_fast")
    tensors = written.pack(QuantizedWeight(*random_linear(8, 128, 1, 4, 0)))
    for wrong in (-16.0 * tensors["scales"], torch.full_like(tensors["qzeros"], torch.inf)):
        with pytest.raises(QuantizationError, match="q_proj has a zero point outside") as caught:
            written.unpack("q_proj", {**tensors, "qzeros": wrong})
        assert caught.value.category is Category.ARTIFACT_CORRUPT
    symmetric = AwqFormat("gemm", 4, 32, zero_point=False)
    tensors = AwqFormat("gemm", 4, 32).pack(QuantizedWeight(*random_linear(8, 32, 1, 4, 0)))
    with pytest.raises(QuantizationError, match=r"outside 8\.\.8"):
        symmetric.unpack("q_proj", tensors)


def test_config_json_has_the_keys_of_autoawq() -> None:
    config = AwqFormat("gemv", 4, 64).quantization_config(["lm_head"])
    assert config == {
        "quant_method": "awq",
        "version": "gemv",
        "bits": 4,
        "group_size": 64,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }
    assert AwqFormat().quantization_config()["modules_to_not_convert"] is None
