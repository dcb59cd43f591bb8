"""A tiny random model of every causal language model type that transformers has: sizes by rule, exceptions as data."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.support.beside_types import ALIKE, CHANGED_BESIDE, IN_BASIC_ROPE
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""All of them, in transformers' order."""
TYPES_BESIDE: tuple[str, ...] = tuple(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
"""Those that take images or sound beside text."""

VOCABULARY = 61
MOST_LAYERS = 6

SMALL: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim_model", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
        ),
        4,
    ),
    **dict.fromkeys(("num_key_value_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "n_inner",
            "decoder_ffn_dim",
            "encoder_ffn_dim",
            "dim_ff",
            "ffn_hidden_size",
            "intermediate_size_mlp",
            "expert_ffn_hidden_size",
            "dff",
        ),
        48,
    ),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32
    ),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "sliding_window_size"), 5),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(
        ("linear_num_key_heads", "linear_num_value_heads", "linear_num_heads", "index_n_heads"), 4
    ),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("hidden_size_per_layer_input", "rotary_dim"), 8),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What a field of these names becomes, wherever a config has it with a number."""

COUNTS_OF_LAYERS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
    "num_decoder_layers", "num_encoder_layers",
)  # fmt: skip

HEAD = {"head_dim": 8}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
INDEXED = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
    "ngram_vocab_size_base": 64,
    "hc_lowrank": 8,
    "split_ngram_parts": 2,
}
CHANGED: dict[str, dict[str, Any]] = {
    **CHANGED_BESIDE,
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), HEAD),
    **dict.fromkeys(("bamba", "granitemoehybrid"), MAMBA),
    "cohere_compass_text": IN_BASIC_ROPE,
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_k": 2},
    **dict.fromkeys(("dots3_note_text", "gemma4_text", "gemma4_unified_text"), ALIKE),
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "xlstm": {"embedding_dim": 32, "num_blocks": 2},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3},
    "longcat_flash": {"head_dim": 8, "qk_head_dim": 16, "num_layers": 2, "num_hidden_layers": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "opt": {"word_embed_proj_dim": 32},
    "qwen4_exp_text": INDEXED,
    "qwen4_exp": {"text_config": INDEXED},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlnet": {"d_head": 8},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
        "chunk_size": 8,
    },
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_dt_rank": 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""By type, what the rules do not make: values that its class insists on. None leaves a field out."""


def small_fields(model_type: str) -> dict[str, Any]:
    """Fields of a config.json in which every size is tiny and each kind of layer occurs."""
    default = CONFIG_MAPPING[model_type]
    fields = _small(_plain(default()))
    return _merged(fields, CHANGED.get(model_type, {}))


def small_config(model_type: str, **changes: Any) -> PretrainedConfig:
    """transformers' config of `small_fields`, with changes."""
    config: PretrainedConfig = CONFIG_MAPPING[model_type](**{**small_fields(model_type), **changes})
    return config


def small_model(model_type: str, seed: int = 0, auto: Any = AutoModelForCausalLM, **changes: Any) -> Any:
    """A random model of the type in float32; its weights are those of its class, moved a little.

    auto: transformers' class that knows the type's.
    """
    torch.manual_seed(seed)
    model: Any = auto.from_config(small_config(model_type, **changes), dtype=torch.float32)
    for module in model.modules():
        if hasattr(module, "is_transposed"):  # experts: the sums of their class, not those of a kernel
            module.config._experts_implementation = "eager"
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            _move(parameter, generator)
    return model.train(False)


def _move(parameter: Tensor, generator: torch.Generator) -> None:
    scale = 0.1 if parameter.ndim < 2 else 0.5 / parameter.shape[-1] ** 0.5
    parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """The fields that a config has of its own, nested configs among them."""
    known: dict[str, Any] = config.to_dict()
    return {
        key: value
        for key, value in known.items()
        if key not in ("transformers_version", "id2label", "label2id")
    }


def _small(fields: Mapping[str, Any]) -> dict[str, Any]:
    before = next((fields[name] for name in COUNTS_OF_LAYERS if isinstance(fields.get(name), int)), None)
    lists = {
        key: value
        for key, value in fields.items()
        if isinstance(value, list) and before and len(value) == before
    }
    layers, latent = _layers(lists), "kv_lora_rank" in fields
    changed: dict[str, Any] = {}
    for key, value in fields.items():
        if key in COUNTS_OF_LAYERS and isinstance(value, int):
            changed[key] = layers
        elif key in lists:
            changed[key] = value[:layers]
        elif isinstance(value, dict) and key.endswith(("config", "encoder", "decoder")):
            changed[key] = _small(value)
        elif key in SMALL and isinstance(value, int) and not isinstance(value, bool):
            changed[key] = (
                SMALL["num_attention_heads"] if key == "num_key_value_heads" and latent else SMALL[key]
            )
        else:
            changed[key] = value
    return changed


def _layers(lists: Mapping[str, list[Any]]) -> int:
    """As many as show each kind that a list names, but two at least."""
    first = [value.index(kind) for value in lists.values() for kind in value]
    return min(MOST_LAYERS, max([1, *first]) + 1)


def _merged(fields: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for key, value in changed.items():
        if value is None:
            merged.pop(key, None)
            continue
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
