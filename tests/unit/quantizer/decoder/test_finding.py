"""Decoder layers and their linears are found by looking at the model; nobody lists them."""

import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import FAMILIES, layer_weights, make_model, open_model
from tests.support.engine import CPU
from tests.support.walked import error_of, stages_of, walked_error
from transformers import AutoModelForMultimodalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.buffers import cast_masks
from quantizer.decoder.families import ARCHITECTURES
from quantizer.decoder.finding import look
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.model_config import make_config
from quantizer.decoder.skeleton import Skeleton

pytestmark = pytest.mark.unit

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATED = ((QKV,), (("self_attn.o_proj",),), (("mlp.gate_proj", "mlp.up_proj"),), (("mlp.down_proj",),))
FOUND: dict[str, Any] = {
    "gemma": GATED,
    "olmo2": GATED,
    "starcoder2": ((QKV,), (("self_attn.o_proj",),), (("mlp.c_fc",),), (("mlp.c_proj",),)),
    "phi": (
        ((*QKV, "mlp.fc1"),),
        (("self_attn.dense",), ("mlp.fc2",)),
    ),
    "cohere": (
        ((*QKV, "mlp.gate_proj", "mlp.up_proj"),),
        (("self_attn.o_proj",), ("mlp.down_proj",)),
    ),
    "glm": ((QKV,), (("self_attn.o_proj",),), (("mlp.gate_up_proj",),), (("mlp.down_proj",),)),
    "minicpm3": (
        (("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),),
        (("self_attn.q_b_proj",), ("self_attn.kv_b_proj",)),
        (("self_attn.o_proj",),),
        (("mlp.gate_proj", "mlp.up_proj"),),
        (("mlp.down_proj",),),
    ),
}
"""By type, the stages of the first layer: linears that read one input lie together, and what rests on what follows."""


@pytest.mark.parametrize("model_type", FOUND)
def test_a_type_that_nobody_listed_is_walked_exactly(model_type: str, tmp_path: Path) -> None:
    whole = small_model(model_type)
    whole.save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model")
    assert stages_of(model.layout) == FOUND[model_type]
    assert walked_error(whole, model, tmp_path) < 1e-6


DENSE = [name for name, (model_type, _) in FAMILIES.items() if ARCHITECTURES[model_type].experts is None]


@pytest.mark.parametrize("name", DENSE)
def test_what_is_found_is_what_the_table_says(name: str, tmp_path: Path) -> None:
    make_model(*FAMILIES[name]).save_pretrained(tmp_path)
    layout = open_model(tmp_path).layout
    found = look(layout.skeleton)[0]
    for index in range(layout.layers):
        known = {shared for stage in layout.stages(index) for shared in stage.shared_inputs}
        assert {shared for stage in found[index].stages for shared in stage.shared_inputs} == known


KINDS = {
    "a config with infinity in it": "mamba2",
    "layers that differ": "lfm2",
    "buffers that were learned": "apertus",
    "a model under another name than its class says": "llama4_text, dense",
    "a head inside another module": "bert",
    "layers that keep what they made": "recurrent_gemma",
    "layers that return two things": "bamba",
    "layers that return three things": "rwkv",
    "buffers that the model around the layers computes": "falcon_h1",
    "positions counted without padding": "roberta",
    "a class whose name does not say what it is for": "bert-generation",
    "embeddings narrower than the layers": "rembert",
    "rows of experts that do nothing": "longcat_flash",
    "layers that ask which of their values are not zero": "xmod",
}
REFUSED = {
    "xlm": "does not run its layers one after another",
    "hrm_text": "its head reads the embeddings",
    "jetmoe": "holds experts in one fused tensor",
    "dbrx": "holds experts in one fused tensor",
    "reformer": "does not run its layers one after another",
    "blt": "is several models in one (patcher_config, encoder_config, decoder_config, global_config)",
    "cpmant": "looks up other tokens than those of the text",
}
"""Type -> what its refusal says."""
REFUSED_BESIDE = {
    "kosmos-2": "transformers' class does not run it on text alone, with this config.json (ValueError: You have to",
    "idefics": "transformers' class does not run it on text alone, with this config.json (ValueError: Exactly 1 of",
    "blip-2": "forward() missing 1 required positional argument: 'pixel_values'",
    "chameleon": "with the logits of some tokens that it cannot do with a part of the vocabulary (IndexError: index 4",
}
"""The same of types that take images."""


KINDS_EVERY_TIME = (
    "layers that differ",
    "buffers that were learned",
    "a model under another name than its class says",
    "layers that keep what they made",
    "layers that return three things",
    "buffers that the model around the layers computes",
    "positions counted without padding",
)


@pytest.mark.parametrize("kind", mostly_nightly(KINDS, KINDS_EVERY_TIME))
def test_what_classes_do_differently_is_walked_exactly(kind: str, tmp_path: Path) -> None:
    model_type, _, more = KINDS[kind].partition(", ")
    fields = {"moe_layers": [], "interleave_moe_layer_step": 0} if more == "dense" else {}
    whole = small_model(model_type, **fields)
    whole.save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model")
    assert walked_error(whole, model, tmp_path) < 1e-6


def test_padding_has_the_position_that_its_class_gives_it(tmp_path: Path) -> None:
    whole = small_model("roberta")
    whole.save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model")
    padded = torch.tensor([[7, 8, 0, 0, 9, 10, 0, 11], [0, 7, 8, 12, 7, 60, 0, 0]])
    assert error_of(whole, model, [padded], tmp_path) < 1e-6


def test_positions_that_padding_takes_are_not_for_text(tmp_path: Path) -> None:
    small_model("roberta", pad_token_id=1).save_pretrained(tmp_path)
    model = open_model(tmp_path)
    assert model.layout.max_positions == 64 - 2
    longest = torch.full((1, model.layout.max_positions), 5)
    assert next(model.embed([longest])).shape == (1, 62, 32)


def test_a_class_without_a_limit_of_positions_takes_any_text(tmp_path: Path) -> None:
    small_model("xlnet").save_pretrained(tmp_path)
    model = open_model(tmp_path)
    assert model.layout.max_positions > 1_000_000
    assert next(model.embed([torch.full((1, 600), 5)])).shape[1] == 600


def test_what_computes_buffers_leaves_the_weights(tmp_path: Path) -> None:
    whole = small_model("falcon_h1")
    whole.save_pretrained(tmp_path)
    model = open_model(tmp_path)
    held = dict(model.layer(0, layer_weights(model, 0)).parameters())
    for name, value in whole.model.layers[0].named_parameters():
        assert torch.equal(held[name], value), name


def test_a_mask_of_numbers_has_the_type_of_what_is_computed_and_frequencies_keep_theirs(
    tmp_path: Path,
) -> None:
    """Scores are multiplied by the mask, and then values of the model's type by the scores."""
    small_model("openai-gpt").save_pretrained(tmp_path)
    model = DecoderModel(open_model(tmp_path).layout, CPU, torch.bfloat16)
    hidden = torch.randn((2, 9, 32), dtype=torch.bfloat16)
    assert model.layer(0, layer_weights(model, 0)).forward(hidden).dtype is torch.bfloat16
    module = torch.nn.Module()
    for name, value in (("mask", torch.eye(3)), ("ones", torch.ones(2, 3)), ("rotary", torch.rand(2, 3))):
        module.register_buffer(name, value)
    cast_masks(module, torch.bfloat16)
    types = {name: value.dtype for name, value in module.named_buffers()}
    assert types == {"mask": torch.bfloat16, "ones": torch.float32, "rotary": torch.float32}


@pytest.mark.parametrize("model_type", mostly_nightly(REFUSED, [one for one in REFUSED if one != "blt"]))
def test_what_is_no_chain_of_layers_is_refused_with_what_it_does(model_type: str, tmp_path: Path) -> None:
    small_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(QuantizationError) as caught:
        open_model(tmp_path)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert REFUSED[model_type] in caught.value.message


@pytest.mark.parametrize("model_type", mostly_nightly(REFUSED_BESIDE, ("idefics", "blip-2")))
def test_what_does_not_run_on_text_alone_is_refused_with_what_its_class_says(
    model_type: str, tmp_path: Path
) -> None:
    small_model(model_type, auto=AutoModelForMultimodalLM).save_pretrained(tmp_path)
    with pytest.raises(QuantizationError) as caught:
        open_model(tmp_path).try_out()
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert REFUSED_BESIDE[model_type] in caught.value.message
    assert "config.json cannot be used" not in caught.value.message


@pytest.mark.nightly
def test_a_tower_that_has_the_plain_attention_alone_is_made(tmp_path: Path) -> None:
    whole = small_model("vibevoice_asr", auto=AutoModelForMultimodalLM)
    whole.save_pretrained(tmp_path / "model")
    assert walked_error(whole, open_model(tmp_path / "model"), tmp_path) < 1e-6


LARGE = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def test_finding_costs_no_memory_and_little_time() -> None:
    """Of a model of 70 billion weights."""
    config = make_config({"model_type": "olmo2", **LARGE}, None)
    before, started = peak(), time.process_time()
    skeleton = Skeleton(config, None, None)
    assert len(look(skeleton)[0]) == LARGE["num_hidden_layers"]
    assert peak() - before < 500_000_000
    assert time.process_time() - started < 10  # it takes 2.5


def peak() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
