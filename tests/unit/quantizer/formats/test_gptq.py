"""The gptq formats, versions 1 and 2: what is packed comes back, and lies where each version says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.formats import random_linear

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.formats.gptq import GptqFormat

pytestmark = pytest.mark.unit

BITS = st.sampled_from((2, 3, 4, 8))


@given(BITS, st.sampled_from((1, 2)), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_a_linear_comes_back_bit_by_bit(bits: int, version: int, rows: int, groups: int, seed: int) -> None:
    n, k = 32 * rows, 32 * groups
    integers, scales, zeros, _ = random_linear(n, k, groups, bits, seed)
    shuffled = torch.randint(0, groups, (k,), generator=torch.Generator().manual_seed(seed)).int()
    written = GptqFormat(bits, 32, version=version)
    tensors = written.pack(QuantizedWeight(integers, scales, zeros, shuffled))
    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert shapes == written.tensor_shapes(n, k, groups)
    assert tuple(shapes) == written.tensors
    back = written.unpack("linear", tensors)
    assert torch.equal(back.integers, integers)
    assert torch.equal(back.scales, scales)
    assert torch.equal(back.zeros, zeros)
    assert torch.equal(back.g_idx, shuffled)


@pytest.mark.parametrize(("version", "word"), [(1, 0x76543210), (2, -2023406815)])
def test_version_1_stores_the_zero_point_minus_one_and_version_2_as_it_is(version: int, word: int) -> None:
    zeros = torch.arange(1, 9).unsqueeze(1)  # version 2: 0x87654321, as a signed word
    g_idx = torch.zeros(8)
    tensors = GptqFormat(4, 8, version=version).pack(
        QuantizedWeight(torch.zeros(8, 8, dtype=torch.uint8), torch.ones(8, 1), zeros, g_idx)
    )
    assert tensors["qzeros"].tolist() == [[word]]


def test_version_2_holds_a_zero_point_of_zero_and_version_1_never_wraps_it() -> None:
    grid = (torch.zeros(8, 8, dtype=torch.uint8), torch.ones(8, 1), torch.zeros(8, 1), torch.zeros(8))
    second = GptqFormat(4, 8, version=2)
    assert not second.unpack("linear", second.pack(QuantizedWeight(*grid))).zeros.any()
    with pytest.raises(ValueError, match="wrap"):
        GptqFormat(4, 8).pack(QuantizedWeight(*grid))


def test_the_highest_zero_point_of_version_2_is_not_taken_for_a_wrapped_one() -> None:
    grid = (torch.zeros(8, 8, dtype=torch.uint8), torch.ones(8, 1), torch.full((8, 1), 15), torch.zeros(8))
    second = GptqFormat(4, 8, version=2)
    tensors = second.pack(QuantizedWeight(*grid))
    assert int(second.unpack("linear", tensors).zeros.max()) == 15
    with pytest.raises(QuantizationError, match="linear has a zero point that wrapped around") as caught:
        GptqFormat(4, 8).unpack("linear", tensors)
    assert caught.value.category is Category.ARTIFACT_CORRUPT


@pytest.mark.parametrize(("version", "name"), [(1, "gptq"), (2, "gptq_v2")])
def test_config_json_names_the_version_and_the_parameters(version: int, name: str) -> None:
    written = GptqFormat(3, 64, sym=True, desc_act=True, static_groups=True, version=version)
    config = written.quantization_config(["lm_head"])
    assert config["checkpoint_format"] == name
    expected = {"bits": 3, "group_size": 64, "sym": True, "desc_act": True, "static_groups": True}
    assert {key: config[key] for key in expected} == expected
    assert "modules_in_block_to_quantize" not in config


def test_modules_of_a_layer_are_told_and_single_exceptions_refused() -> None:
    written = GptqFormat(4, inside_layer_modules=(("self_attn.q_proj", "self_attn.k_proj"), ("mlp.up_proj",)))
    config = written.quantization_config(["lm_head", "model.layers.0.mlp.down_proj"])
    assert config["modules_in_block_to_quantize"] == [
        ["self_attn.q_proj", "self_attn.k_proj"],
        ["mlp.up_proj"],
    ]
    with pytest.raises(QuantizationError, match=r"cannot leave out model\.layers\.1\.mlp\.up_proj alone"):
        written.quantization_config(["model.layers.1.mlp.up_proj"])
    with pytest.raises(QuantizationError, match="write checkpoint_format: compressed-tensors") as caught:
        GptqFormat(4).quantization_config(["model.layers.0.mlp.down_proj"])
    assert caught.value.category is Category.INVALID_WORKFLOW


def test_a_group_size_that_does_not_divide_the_inputs_is_refused_with_the_linear() -> None:
    with pytest.raises(QuantizationError, match="group_size 48 does not divide the 64 inputs of down_proj"):
        GptqFormat(4, 48).check_shape("down_proj", 64, 64)
    GptqFormat(4, -1).check_shape("down_proj", 64, 72)


def test_the_weight_as_read_is_rounded_to_float16() -> None:
    scales = torch.tensor(
        [[0.1]]
    )  # float16: 0.0999755859375; times 13: 1.2996826171875, kept as 1.2998046875
    weight = GptqFormat(4, 1).as_read(
        QuantizedWeight(
            torch.tensor([[15]], dtype=torch.uint8), scales, torch.tensor([[2]]), torch.tensor([0])
        )
    )
    assert weight.dtype is torch.float16
    assert weight.item() == 1.2998046875
