"""Tiny models of types that take images or sound: values that their classes insist on, beside the rules."""

from typing import Any

ALIKE: dict[str, Any] = {"per_layer_config": None}
TEXT_ALIKE = {"text_config": ALIKE}
THREE_WAYS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
THREE_WAYS_OF_HALF = {**THREE_WAYS, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}
"""Rotary positions in time, height and width: how many of the frequencies of a head are for each."""
IN_BASIC_ROPE = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}}
MAPPED = {"<image>": 3, "IMGIMGA": 4, "<|extra_200|>": 4, "<|visual token 000000|>": 5}

CHANGED_BESIDE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gemma4", "gemma4_unified"), TEXT_ALIKE),
    **{
        name: {"text_config": {"rope_parameters": THREE_WAYS}}
        for name in ("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_omni_thinker")
    },
    "chameleon": {"vocabulary_map": MAPPED},
    "cohere_compass": {"text_config": IN_BASIC_ROPE},
    "cosmos3_edge": {"text_config": {"rope_parameters": THREE_WAYS}, "projector_hidden_size": 64},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2}},
    "diffusion_gemma": {
        "text_config": {**ALIKE, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
        "canvas_length": 8,
    },
    "dots3_note": {
        "text_config": ALIKE,
        "vision_config": {**ALIKE, "adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "emu3": {"vocabulary_map": MAPPED, "vq_config": {"base_channels": 32, "codebook_size": 16}},
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [32, 16],
            "moe_k": 2,
            "rope_parameters": {**THREE_WAYS, "mrope_section": [1, 1, 2]},
        },
        "vision_config": {"depth": 2},
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "glm4v_moe": {"text_config": {"rope_parameters": THREE_WAYS_OF_HALF}},
    "glm5_next": {
        "text_config": {"qk_rope_head_dim": 0, "qk_head_dim": 8},
        "vision_config": {"depth": 2, "out_hidden_size": 32},
    },
    "granite4_vision": {
        "deepstack_layer_map": [[0, 0]],
        "downsample_rate": "1/2",
        "spatial_target_layers": [1],
        "vision_config": {"hidden_size": 64},
    },
    "granite_docling": {"vision_config": {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1]}},
    "hunyuan_vl": {
        "text_config": {"head_dim": 8, "rope_parameters": {**THREE_WAYS, "mrope_section": [1, 1, 1, 1]}},
        "vision_config": {"out_hidden_size": 32, "text_hidden_size": 32},
    },
    "inkling2": {"vision_config": {"text_hidden_size": 32}},
    "kyutai_speech_to_text": {"audio_pad_token_id": 3, "codec_config": {"upsample_groups": 32}},
    "mistral4": {"qk_head_dim": 16, "rope_parameters": {"partial_rotary_factor": 1.0}},
    "molmo2": {
        "adapter_config": {"vision_feature_layer": [1, 0], "text_hidden_size": 32},
        "vision_config": {"image_size": [28, 28], "num_position_embeddings": 4},
    },
    "muse_spark": {
        "audio_config": {"out_hidden_size": 32, "hidden_sizes": [16, 16, 16, 16]},
        "text_config": {"moe_hidden_size": 32},
        "out_hidden_size": 32,
        "projector_hidden_size": 32,
    },
    "nemo_speechlm": {
        "audio_config": {"diarization_config": {"head_config": {"audio_hidden_size": 32}}},
        "word_timestamp_config": {"blank_token_id": 3},
    },
    "qwen2_vl": {
        "text_config": {"rope_parameters": THREE_WAYS},
        "vision_config": {"depth": 2, "embed_dim": 32},
    },
    "qwen2_5_vl": {"text_config": {"rope_parameters": THREE_WAYS}, "vision_config": {"depth": 2}},
    "qwen3_omni_moe": {
        "talker_config": {"text_config": {"shared_expert_intermediate_size": 32}, "spatial_merge_size": 2}
    },
    "step3p7": {"text_config": {"sliding_window": 5}},
}
"""By type. None leaves a field out."""
