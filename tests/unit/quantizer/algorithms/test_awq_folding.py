"""Folding AWQ's scales: the model's function stays as it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.engine import tiny_config
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.awq.folding import (
    fold_into_norm,
    fold_into_rows,
    scale_columns,
    scaled_gram,
)

pytestmark = pytest.mark.unit


def random_scales(count: int, generator: torch.Generator) -> Tensor:
    """Scales between about 1/30 and 30."""
    return torch.exp(torch.randn(count, generator=generator).clamp(-3, 3) * 1.15)


def rows_of_shared_heads(heads: int, value_heads: int, width: int) -> Tensor:
    """The row of v_proj that each column of o_proj reads: query heads that follow each other share a value head."""
    rows = torch.arange(value_heads * width).reshape(value_heads, width)
    return rows.repeat_interleave(heads // value_heads, 0).flatten()


def fold_llama(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Folds random scales into every place of a Llama."""
    config = model.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    rows = rows_of_shared_heads(heads, shared, config.hidden_size // heads)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            folded = fold_into_norm(norm.weight.data, random_scales(config.hidden_size, generator))
            norm.weight.data = folded.weight
            for reader in readers:
                reader.weight.data = scale_columns(reader.weight.data, folded.scales)
        every = random_scales(attention.v_proj.out_features, generator)
        inner = random_scales(config.intermediate_size, generator)
        for producer, scales, origin, reader in (
            (attention.v_proj, every[rows], rows, attention.o_proj),
            (mlp.up_proj, inner, torch.arange(config.intermediate_size), mlp.down_proj),
        ):
            bias = None if producer.bias is None else producer.bias.data
            producer.weight.data, bias = fold_into_rows(producer.weight.data, scales, origin, bias)
            if bias is not None:
                producer.bias.data = bias
            reader.weight.data = scale_columns(reader.weight.data, scales)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 99), st.sampled_from((1, 2, 4)), st.booleans())
def test_scaling_alone_keeps_the_logits_with_every_sharing_of_heads(
    seed: int, shared: int, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    config = tiny_config(num_key_value_heads=shared, attention_bias=bias, mlp_bias=bias)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # norms and biases too, so that nothing hides behind ones and zeros
        parameter.data = (
            torch.randn(parameter.shape, generator=generator) * 0.1 + (parameter.dim() == 1) * 0.5
        )
    tokens = torch.randint(0, 96, (2, 16), generator=generator)
    with torch.inference_mode():
        before = model(tokens).logits
    fold_llama(model, generator)
    with torch.inference_mode():
        after = model(tokens).logits
    assert float((after - before).abs().max()) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("unit_offset", [False, True])
def test_a_norm_in_few_bits_keeps_the_function_through_the_scales_it_holds(
    dtype: torch.dtype, unit_offset: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(64, generator=generator) * 0.3 + (0.0 if unit_offset else 1.0)).to(dtype)
    scales = random_scales(64, generator)
    folded = fold_into_norm(weight, scales, unit_offset=unit_offset)
    offset = 1.0 if unit_offset else 0.0
    assert folded.weight.dtype == dtype
    assert torch.allclose(
        (folded.weight.double() + offset) * folded.scales, weight.double() + offset, rtol=1e-6
    )
    bound = 1e-6 if dtype == torch.float32 else 0.3 if unit_offset else 0.01
    assert float((folded.scales / scales - 1).abs().max()) < bound


def test_a_layer_norm_with_bias_keeps_its_function() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 64, generator=generator)
    weight, bias = torch.randn(64, generator=generator), torch.randn(64, generator=generator)
    linear = torch.randn(8, 64, generator=generator)
    before = functional.layer_norm(inputs, (64,), weight, bias) @ linear.t()
    folded = fold_into_norm(weight, random_scales(64, generator), bias)
    after = functional.layer_norm(inputs, (64,), folded.weight, folded.bias)
    assert torch.allclose(after @ scale_columns(linear, folded.scales).t(), before, atol=1e-4)


def test_a_norm_weight_of_zero_stays_zero() -> None:
    weight = torch.tensor([0.0, 1.0])
    folded = fold_into_norm(weight, torch.tensor([3.0, 2.0]))
    assert folded.weight.tolist() == [0.0, 0.5]
    assert folded.scales.tolist() == [3.0, 2.0]


def test_rows_that_no_channel_comes_from_stay_as_they_are() -> None:
    weight = torch.ones(6, 3)
    folded, bias = fold_into_rows(
        weight, torch.tensor([2.0, 4.0, 2.0, 4.0]), torch.tensor([4, 5, 4, 5]), torch.ones(6)
    )
    assert folded[:, 0].tolist() == [1, 1, 1, 1, 0.5, 0.25]
    assert bias is not None
    assert bias.tolist() == [1, 1, 1, 1, 0.5, 0.25]
    assert torch.equal(weight, torch.ones(6, 3))


def test_channels_of_one_row_with_different_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one scale"):
        fold_into_rows(torch.ones(2, 2), torch.tensor([1.0, 2.0]), torch.tensor([0, 0]))


@pytest.mark.parametrize("unit_offset", [False, True])
def test_a_divided_weight_that_does_not_fit_its_type_is_a_numerical_failure(unit_offset: bool) -> None:
    scale = 1e9 if unit_offset else 1e-6  # 1 + w becomes 0, or w overflows
    with pytest.raises(QuantizationError, match="does not fit") as caught:
        fold_into_norm(torch.ones(4).half(), torch.full((4,), scale), unit_offset=unit_offset)
    assert caught.value.category is Category.NUMERICAL_FAILURE
    with pytest.raises(QuantizationError, match="does not fit"):
        fold_into_rows(torch.ones(4, 4).half(), torch.full((4,), 1e-6), torch.arange(4))


def test_the_scaled_gram_matrix_is_that_of_the_divided_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, scales = torch.randn(50, 8, generator=generator), random_scales(8, generator)
    divided = inputs / scales
    assert torch.allclose(
        scaled_gram(inputs.t() @ inputs, scales), divided.t() @ divided, rtol=1e-3, atol=1e-4
    )
