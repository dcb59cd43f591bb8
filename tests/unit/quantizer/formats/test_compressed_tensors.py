"""The compressed-tensors format: what is packed comes back, and lies where the library looks for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.formats import random_linear

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.formats.compressed_tensors import CompressedTensorsFormat

pytestmark = pytest.mark.unit

BITS = st.sampled_from((2, 3, 4, 8))


@given(BITS, st.booleans(), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**31))
def test_a_linear_of_any_size_comes_back_bit_by_bit(
    bits: int, sym: bool, rows: int, width: int, groups: int, seed: int
) -> None:
    linear = random_linear(rows, width * groups, groups, bits, seed, symmetric=sym)
    written = CompressedTensorsFormat(bits, width, sym)
    tensors = written.pack(QuantizedWeight(*linear))
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert shapes == written.tensor_shapes(rows, width * groups, groups)
    assert set(shapes) == set(written.tensors)
    back = written.unpack("linear", tensors)
    for ours, theirs in zip((back.integers, back.scales, back.zeros, back.g_idx), linear, strict=True):
        assert torch.equal(ours, theirs)


def test_integers_lie_along_the_row_least_significant_first() -> None:
    integers = torch.arange(1, 9, dtype=torch.uint8).unsqueeze(0)
    grid = (torch.ones(1, 1), torch.full((1, 1), 8), torch.zeros(8))
    tensors = CompressedTensorsFormat(4, 8, sym=True).pack(QuantizedWeight(integers, *grid))
    assert tensors["weight_packed"].tolist() == [[0x87654321 - 2**32]]
    assert tensors["weight_shape"].tolist() == [1, 8]


def test_three_bits_run_across_words_and_the_last_word_is_filled_with_zeros() -> None:
    integers = torch.full((1, 11), 7, dtype=torch.uint8)  # 33 ones: a full word and one bit more
    grid = (torch.ones(1, 1), torch.full((1, 1), 4), torch.zeros(11))
    tensors = CompressedTensorsFormat(3, 11, sym=True).pack(QuantizedWeight(integers, *grid))
    assert tensors["weight_packed"].tolist() == [[-1, 1]]


def test_zero_points_lie_along_the_outputs() -> None:
    zeros = torch.tensor([[1, 9], [2, 10], [3, 11]])
    linear = (torch.zeros(3, 8, dtype=torch.uint8), torch.ones(3, 2), zeros, torch.arange(8) // 4)
    tensors = CompressedTensorsFormat(4, 4).pack(QuantizedWeight(*linear))
    assert tensors["weight_zero_point"].tolist() == [[0x321, 0xBA9]]


def test_a_symmetric_file_has_no_zero_points_and_takes_no_others() -> None:
    integers, scales, zeros, g_idx = random_linear(4, 8, 1, 4, 0, symmetric=True)
    written = CompressedTensorsFormat(4, 8, sym=True)
    assert "weight_zero_point" not in written.pack(QuantizedWeight(integers, scales, zeros, g_idx))
    with pytest.raises(ValueError, match="every one must be 8"):
        written.pack(QuantizedWeight(integers, scales, zeros - 1, g_idx))


def test_columns_that_are_not_grouped_as_they_lie_are_never_packed() -> None:
    integers, scales, zeros, g_idx = random_linear(4, 8, 2, 4, 0)
    with pytest.raises(ValueError, match="groups must lie one after another"):
        CompressedTensorsFormat(4, 4).pack(QuantizedWeight(integers, scales, zeros, g_idx.flip(0)))


def test_a_stored_shape_that_cannot_be_is_refused_by_name() -> None:
    written = CompressedTensorsFormat(4, 8)
    tensors = written.pack(QuantizedWeight(*random_linear(4, 16, 2, 4, 0)))
    for shape in ((4, 32), (5, 16), (4, 15)):
        with pytest.raises(QuantizationError, match="q_proj has tensors that do not fit") as caught:
            written.unpack("q_proj", {**tensors, "weight_shape": torch.tensor(shape)})
        assert caught.value.category is Category.ARTIFACT_CORRUPT


def test_config_json_says_what_is_quantized_and_how() -> None:
    config = CompressedTensorsFormat(3, 64, desc_act=True).quantization_config(
        ["model.layers.0.mlp.down_proj", "lm_head"]
    )
    assert config["format"] == "pack-quantized"
    assert config["ignore"] == ["model.layers.0.mlp.down_proj", "lm_head"]
    groups = config["config_groups"]
    assert isinstance(groups, dict)
    assert groups["group_0"]["targets"] == ["Linear"]
    assert groups["group_0"]["weights"] == {
        "num_bits": 3,
        "type": "int",
        "symmetric": False,
        "strategy": "group",
        "group_size": 64,
        "dynamic": False,
        "actorder": "weight",
    }


def test_one_group_a_row_is_the_strategy_channel_and_the_head_is_always_left_out() -> None:
    config = CompressedTensorsFormat(4, -1, sym=True).quantization_config()
    groups = config["config_groups"]
    assert isinstance(groups, dict)
    weights = groups["group_0"]["weights"]
    assert (weights["strategy"], weights["group_size"], weights["symmetric"]) == ("channel", None, True)
    assert config["ignore"] == ["lm_head"]
