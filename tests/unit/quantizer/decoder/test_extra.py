"""Tensors that the model of config.json does not use: left out, copied, or a sign that config.json is wrong."""

import re
from pathlib import Path

import pytest
import torch
from tests.support.decoder_families import open_model
from tests.support.engine import edit_tensors, save_tiny

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.extra import Extra

pytestmark = pytest.mark.unit

ATTENTION = "model.layers.1.self_attn"


def with_tensor(folder: Path, name: str, value: float) -> Extra:
    save_tiny(folder)
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.full((64,), value)}))
    return open_model(folder).layout.check_tensors()


@pytest.mark.parametrize(
    "name",
    [
        f"{ATTENTION}.rotary_emb.inv_freq",
        f"{ATTENTION}.rotary_emb.cos_cached",
        f"{ATTENTION}.masked_bias",
        f"{ATTENTION}.bias",
        "model.position_ids",
    ],
)
def test_what_is_computed_today_is_left_out(name: str, tmp_path: Path) -> None:
    assert with_tensor(tmp_path, name, 1.0) == Extra(left_out=(name,))


def test_a_bias_of_zeros_that_the_model_does_not_have_is_left_out(tmp_path: Path) -> None:
    assert with_tensor(tmp_path, f"{ATTENTION}.q_proj.bias", 0.0) == Extra(
        left_out=(f"{ATTENTION}.q_proj.bias",)
    )


@pytest.mark.parametrize(
    "name",
    [
        "v_head.summary.weight", "score.weight", "mtp.layers.0.mlp.up_proj.weight", "model.mtp_layers.0.norm.weight",
        "model.layers.2.eh_proj.weight", "lm_head.bias", "model.layers_of_another.0.weight",
    ],
)  # fmt: skip
def test_what_belongs_to_something_beside_the_model_is_copied(name: str, tmp_path: Path) -> None:
    assert with_tensor(tmp_path, name, 1.0) == Extra(unused=(name,))


@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        (f"{ATTENTION}.q_proj.bias", f"the first is {ATTENTION}.q_proj.bias", "attention_bias"),
        (
            f"{ATTENTION}.q_norm.weight",
            "1 tensors that those of config.json do not have",
            "correct its model_type",
        ),
        (f"{ATTENTION}.q_proj.lora_A.weight", "lora_A", "Merge the adapter"),
        (f"{ATTENTION}.q_proj.weight_scale", "weight_scale", "start from the model's fp16, bf16 or fp32"),
        (
            "model.layers.5.mlp.up_proj.weight",
            "says 2 layers, but the checkpoint has 6",
            "num_hidden_layers .* to 6",
        ),
    ],
)
def test_what_shows_that_the_config_is_not_that_of_the_weights_is_refused(
    name: str, sentence: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match=sentence) as caught:
        with_tensor(tmp_path, name, 1.0)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert re.search(hint, caught.value.hint), caught.value.hint
