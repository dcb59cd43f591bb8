"""Models and module names that the decoder does not take, and the sentences that say why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.decoder_families import (
    FAMILIES,
    UNKNOWN,
    Stores,
    inputs_of,
    layer_weights,
    make_model,
    open_model,
)

from quantization_api.failures import CATALOGUE, Category, QuantizationError
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.extra import Extra

pytestmark = pytest.mark.unit

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def refused(
    folder: Path,
    config: dict[str, Any],
    modules: ModuleNames | None = None,
    category: Category = Category.MODEL_UNSUPPORTED,
) -> str:
    """The sentence that refuses a model with this config.json, whose tensors are never looked at."""
    make_model(*FAMILIES["llama"]).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizationError) as caught:
        open_model(folder, modules)
    assert caught.value.category is category
    assert caught.value.hint != CATALOGUE[Category.MODEL_UNSUPPORTED].cure
    return f"{caught.value.message} {caught.value.hint}"


VISION = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {"model_type": "gemma3_text"},
    "vision_config": {"model_type": "siglip_vision_model"},
}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {**VISION, "architectures": ["Gemma3ForSequenceClassification"]},
            "architectures ['Gemma3ForSequenceClassification'] (model_type 'gemma3'); only causal language models",
        ),
        (
            {
                **VISION,
                "text_config": {"num_hidden_layers": 2},
                "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 10**9},
            },
            "config.json says 1000000000 layers, but the checkpoint has only",
        ),
        ({**VISION, "architectures": ["Gemma3ForCausalLM"]}, "it has vision_config, text_config"),
        ({**VISION, "architectures": ["Gemma3ForCausalLM"]}, "for gemma3: gemma3_text"),
        ({"model_type": "udop"}, "has an encoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "it has an encoder"),
        ({"model_type": "siglip_vision_model"}, "no causal language model"),
        ({"model_type": "nobodys"}, "does not know Use a model of a type that is exact in docs/models.md"),
        (
            {**FAMILIES["opt"][1], "model_type": "opt", "do_layer_norm_before": False},
            "its norms lie behind attention and MLP (do_layer_norm_before false, as in opt-350m)",
        ),
        (
            {**FAMILIES["opt"][1], "model_type": "opt", "word_embed_proj_dim": 16},
            "the embeddings are 16 wide and the layers 32",
        ),
        (
            {**FAMILIES["bloom"][1], "model_type": "bloom", "apply_residual_connection_post_layernorm": True},
            "its residuals start behind the norms",
        ),
        (
            {**FAMILIES["gpt2"][1], "model_type": "gpt2", "add_cross_attention": True},
            "it has cross-attention",
        ),
        (
            {**FAMILIES["gemma3"][1], "model_type": "gemma3_text", "use_bidirectional_attention": True},
            "its attention is bidirectional",
        ),
        (
            {**FAMILIES["olmoe"][1], "model_type": "olmoe", "clip_qkv": 8.0},
            "its queries, keys and values are clipped",
        ),
        ({**FAMILIES["llama"][1], "model_type": "llama", "num_hidden_layers": 0}, "no layers"),
        (
            {
                **FAMILIES["llama"][1],
                "model_type": "llama",
                "pad_token_id": FAMILIES["llama"][1]["vocab_size"],
            },
            "but the vocabulary has tokens 0 to {} only Set pad_token_id in config.json to null".format(
                FAMILIES["llama"][1]["vocab_size"] - 1
            ),
        ),
        (
            {**FAMILIES["llama"][1], "model_type": "llama", "hidden_act": "nothing"},
            "config.json cannot be used",
        ),
    ],
)
def test_a_model_that_is_not_supported_is_refused(
    config: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    assert sentence in refused(tmp_path, config)


STABLELM = {**UNKNOWN["stablelm"][1], "model_type": "stablelm"}
LLAMA = {**FAMILIES["llama"][1], "model_type": "llama"}


@pytest.mark.parametrize(
    ("config", "modules", "sentence"),
    [
        (
            {**FAMILIES["mixtral"][1], "model_type": "jetmoe", "num_local_experts": 4},
            None,
            "holds experts in one fused tensor (mlp.input_linear.weight), and how",
        ),
        (
            {**FAMILIES["mixtral"][1], "model_type": "jetmoe", "num_local_experts": 4},
            ModuleNames("model.layers", (("self_attention.kv_proj",),)),
            "holds experts in one fused tensor",
        ),
    ],
)
def test_fused_experts_that_are_used_in_an_unknown_way_are_refused(
    config: dict[str, Any], modules: ModuleNames | None, sentence: str, tmp_path: Path
) -> None:
    assert sentence in refused(tmp_path, config, modules)


@pytest.mark.parametrize(
    ("config", "modules", "sentence"),
    [
        (STABLELM, ModuleNames("model.blocks", (QKV,)), "layers_block_name names model.blocks, which"),
        (STABLELM, ModuleNames("model.norm", (QKV,)), "model.norm is a LayerNorm, not a list of layers"),
        (
            STABLELM,
            ModuleNames("model.layers", (("self_attn.qkv",),)),
            "names self_attn.qkv, which is no linear of model.layers.0 (its linears: self_attn.q_proj",
        ),
        (
            STABLELM,
            ModuleNames("model.layers", (QKV,), ("model.wte",)),
            "outside_layer_modules names model.wte, which a stablelm model does not have",
        ),
        (LLAMA, ModuleNames("model.norm"), "model.norm is a LlamaRMSNorm, not a list of layers"),
        (LLAMA, ModuleNames(None, (("mlp.gate",),)), "names mlp.gate, which is no linear"),
    ],
)
def test_module_names_that_do_not_fit_are_refused_with_those_that_are_there(
    config: dict[str, Any], modules: ModuleNames, sentence: str, tmp_path: Path
) -> None:
    assert sentence in refused(tmp_path, config, modules, Category.INVALID_WORKFLOW)


def test_a_linear_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    make_model("stablelm", UNKNOWN["stablelm"][1]).save_pretrained(tmp_path)
    with pytest.raises(QuantizationError, match=r"self_attn\.q_proj more than once") as caught:
        open_model(tmp_path, ModuleNames("model.layers", (QKV, ("self_attn.q_proj",))))
    assert caught.value.category is Category.INVALID_WORKFLOW


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (
            (("self_attn.q_proj", "self_attn.o_proj"),),
            r"q_proj and self_attn\.o_proj together, but they read",
        ),
        ((("mlp.down_proj",), QKV), r"lists self_attn\.q_proj behind linears that run after it"),
    ],
)
def test_linears_listed_against_how_they_run_are_refused(
    stages: tuple[tuple[str, ...], ...], sentence: str, tmp_path: Path
) -> None:
    make_model("stablelm", UNKNOWN["stablelm"][1]).save_pretrained(tmp_path)
    model = open_model(tmp_path, ModuleNames("model.layers", stages))
    stores = Stores(tmp_path)
    with stores("hidden", [(1, 4)], model.layout.width) as hidden, torch.inference_mode():
        hidden.write(0, torch.randn(1, 4, model.layout.width))
        with (
            model.walk(0, layer_weights(model, 0), hidden, stores) as walk,
            pytest.raises(QuantizationError, match=sentence) as caught,
        ):
            inputs_of(walk, walk.stages[:1])
    assert caught.value.category is Category.INVALID_WORKFLOW


def test_a_known_type_with_linears_of_its_own_choice_takes_the_generic_path(tmp_path: Path) -> None:
    make_model(*FAMILIES["llama"]).save_pretrained(tmp_path)
    model = open_model(tmp_path, ModuleNames(None, (("self_attn.v_proj",), ("mlp.down_proj",))))
    assert model.layout.linears(1) == ("self_attn.v_proj", "mlp.down_proj")
    assert model.layout.check_tensors() == Extra()


def test_the_generic_path_stops_a_layer_behind_the_linears_that_were_asked_for(tmp_path: Path) -> None:
    model_type, fields, modules = UNKNOWN["stablelm"]
    make_model(model_type, fields).save_pretrained(tmp_path)
    model = open_model(tmp_path, modules)
    stores = Stores(tmp_path)
    calls: list[int] = []
    with stores("hidden", [(1, 4)] * 3, model.layout.width) as hidden, torch.inference_mode():
        for number in range(3):
            hidden.write(number, torch.randn(1, 4, model.layout.width))
        with model.walk(0, layer_weights(model, 0), hidden, stores) as walk:
            walk.linear("mlp.down_proj").register_forward_hook(lambda *_: calls.append(1))
            inputs_of(walk, walk.stages[:1])
    assert len(calls) == 1  # the first batch goes through, to see that the list is in order
