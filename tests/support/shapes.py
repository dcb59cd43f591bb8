"""Small models in the shapes of six that people quantize, with widths that the kernels of servers take.

Their checkpoints lie in a few shards, with a tokenizer.
"""

from pathlib import Path
from typing import Any

import torch
from tests.support.causal_types import VOCABULARY, small_fields, small_model
from tests.support.reloaded import LETTERS, save_whole
from tests.support.tokens import save_byte_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    Gemma3ImageProcessor,
    Gemma3Processor,
    PreTrainedTokenizerFast,
)

WIDTHS = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
    "shared_intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "max_position_embeddings": 64,
}
LATENT = {
    "topk_method": "noaux_tc",  # a field that servers read, and transformers' class does not have
    "kv_lora_rank": 512,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 0,
}
MAMBA = {
    "layer_types": ["linear_attention", "full_attention"],
    "mamba_n_heads": 32,
    "mamba_d_head": 8,
    "mamba_d_state": 32,
}
IMAGES = {
    **{f"lines_{count}": "\n" * count for count in (1, 2, 3, 4)},
    "boi_token": "<image>",
    "eoi_token": "</image>",
    "image_token": "<patch>",
}
"""Tokens that software asks of the shape that takes images, the last of the vocabulary."""
OF_IMAGES = {
    "boi_token_index": VOCABULARY - 3,
    "eoi_token_index": VOCABULARY - 2,
    "image_token_index": VOCABULARY - 1,
    "mm_tokens_per_image": 4,
}
SHAPES: dict[str, dict[str, Any]] = {
    "deepseek_v3": LATENT,
    "qwen3_moe": {},
    "gpt_oss": {},
    "qwen3_next": {"linear_num_value_heads": 16},
    "gemma3": {},
    "granitemoehybrid": MAMBA,
}
"""By model type, what its config has beside the widths."""


def auto_of(model_type: str) -> Any:
    """transformers' class that loads the shape."""
    return AutoModelForMultimodalLM if "text_config" in small_fields(model_type) else AutoModelForCausalLM


def save_shape(model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Writes the model of a shape in a type, with all that software wants beside it; returns it in float32."""
    fields = small_fields(model_type)
    text = fields.get("text_config", fields)
    changes = {name: size for name, size in WIDTHS.items() if name in text} | SHAPES[model_type]
    beside = "text_config" in fields
    if beside:
        changes = {"text_config": {**text, **changes}, **OF_IMAGES}
    whole = save_whole(small_model(model_type, auto=auto_of(model_type), **changes).to(dtype), folder).float()
    if beside:
        save_byte_tokenizer(folder, LETTERS[: -len(IMAGES)], **IMAGES)
        Gemma3Processor(
            Gemma3ImageProcessor(size={"height": 224, "width": 224}),
            PreTrainedTokenizerFast.from_pretrained(folder),
            image_seq_length=OF_IMAGES["mm_tokens_per_image"],
        ).save_pretrained(folder)
    return whole
