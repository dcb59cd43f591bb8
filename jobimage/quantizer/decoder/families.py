"""The table of architectures. Another model of the same shape is another entry, no code."""

from dataclasses import replace
from typing import Any

from quantizer.decoder.architecture import (
    GIVEN,
    Architecture,
    Block,
    Experts,
    Fold,
    NormKind,
    RowRule,
    SharedExpert,
    UnsupportedFeature,
)

QKV = ("q_proj", "k_proj", "v_proj")
GELU_BETWEEN = "an activation that no scale passes through (GELU) lies between"


def _norm_fold(block: Block, *beside: str) -> Fold:
    return Fold("norm", block.norm, (*block.input_names, *beside))


def _two_blocks(
    model_type: str,
    layers: str,
    final_norm: str,
    norm: NormKind,
    attention: Block,
    mlp: Block,
    *,
    values: RowRule,
    hidden: dict[str, Any],
) -> Architecture:
    """Attention and MLP in which scales fold into both norms and into the last linear that makes an output's input.

    values: see Fold.rows, of the attention. hidden: how the MLP's fold differs from a plain one, as fields of Fold.
    """
    folds = (
        _norm_fold(attention),
        Fold("linear", attention.input_names[-1], (attention.output_name,), rows=values),
        _norm_fold(mlp),
        Fold("linear", mlp.input_names[-1], (mlp.output_name,), **hidden),
    )
    return Architecture(model_type, layers, final_norm, norm, (attention, mlp), folds=folds)


def _gated(
    model_type: str,
    *,
    norm: NormKind = "rms",
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
    post_norms: tuple[str | None, str | None] = (None, None),
    unsupported: tuple[UnsupportedFeature, ...] = (),
) -> Architecture:
    """Llama and its descendants: separate q, k, v; gate and up."""
    attention = Block("attention", norms[0], "self_attn", QKV, "o_proj", post_norm=post_norms[0])
    mlp = Block("mlp", norms[1], "mlp", ("gate_proj", "up_proj"), "down_proj", post_norm=post_norms[1])
    made = _two_blocks(model_type, "layers", "norm", norm, attention, mlp, values="values", hidden={})
    return replace(made, unsupported=unsupported)


def _gemma(model_type: str) -> Architecture:
    return _gated(
        model_type,
        norm="rms_plus_one",
        norms=("input_layernorm", "pre_feedforward_layernorm"),
        post_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        unsupported=(
            UnsupportedFeature(
                "use_bidirectional_attention", True, "its attention is bidirectional: it is no decoder"
            ),
        ),
    )


def _sparse(model_type: str, module: str, names: tuple[str, str, str], experts: Experts) -> Architecture:
    """A Llama whose MLP is a router and experts, in all layers or in some."""
    dense = _gated(model_type)
    gate, up, down = names
    block = Block("experts", "post_attention_layernorm", module, (gate, up), down)
    inside, readers = [f"{module}.experts.*"], [f"{module}.{experts.router}"]
    if experts.shared is not None:
        inside.append(f"{module}.{experts.shared.module}")
        readers.append(f"{module}.{experts.shared.gate}")
    readers += [f"{expert}.{name}" for expert in inside for name in (gate, up)]
    folds = (
        *dense.folds[:2],
        Fold("norm", block.norm, tuple(readers)),
        *(Fold("linear", f"{expert}.{up}", (f"{expert}.{down}",)) for expert in inside),
    )
    return Architecture(
        model_type,
        "layers",
        "norm",
        "rms",
        dense.blocks,
        folds=dense.folds,
        experts=experts,
        sparse_block=block,
        sparse_folds=folds,
    )


LLAMA = _gated("llama")
MISTRAL = _gated("mistral")
QWEN2 = _gated("qwen2")
QWEN3 = _gated("qwen3")
GEMMA2 = _gemma("gemma2")
GEMMA3 = _gemma("gemma3_text")

MIXTRAL = _sparse(
    "mixtral",
    "block_sparse_moe",
    ("w1", "w3", "w2"),
    Experts("mlp", "gate", "w1", "w3", "w2", "num_local_experts", "intermediate_size", None, cast=False),
)
QWEN3_MOE = _sparse(
    "qwen3_moe",
    "mlp",
    ("gate_proj", "up_proj", "down_proj"),
    Experts(
        "mlp", "gate", "gate_proj", "up_proj", "down_proj", "num_experts", "moe_intermediate_size", "norm_topk_prob",
        cast=True,
    ),
)  # fmt: skip

QWEN2_MOE = _sparse(
    "qwen2_moe",
    "mlp",
    ("gate_proj", "up_proj", "down_proj"),
    Experts(
        "mlp", "gate", "gate_proj", "up_proj", "down_proj", "num_experts", "moe_intermediate_size", "norm_topk_prob",
        cast=True, shared=SharedExpert("shared_expert", "shared_expert_gate", "shared_expert_intermediate_size"),
    ),
)  # fmt: skip
OLMOE = replace(
    _sparse(
        "olmoe",
        "mlp",
        ("gate_proj", "up_proj", "down_proj"),
        Experts(
            "mlp", "gate", "gate_proj", "up_proj", "down_proj", "num_experts", "intermediate_size", "norm_topk_prob",
            cast=True,
        ),
    ),
    unsupported=(
        UnsupportedFeature("clip_qkv", GIVEN, "its queries, keys and values are clipped (clip_qkv)"),
    ),
)  # fmt: skip

PHI3 = _two_blocks(
    "phi3", "layers", "norm", "rms",
    Block("attention", "input_layernorm", "self_attn", ("qkv_proj",), "o_proj"),
    Block("mlp", "post_attention_layernorm", "mlp", ("gate_up_proj",), "down_proj"),
    values="stacked_values", hidden={"rows": "second_half"},
)  # fmt: skip

OPT = replace(
    _two_blocks(
        "opt", "decoder.layers", "decoder.final_layer_norm", "layer_norm",
        Block("attention", "self_attn_layer_norm", "self_attn", QKV, "out_proj"),
        Block("mlp", "final_layer_norm", "", ("fc1",), "fc2"),
        values="values", hidden={"activation": "activation_function"},
    ),
    unsupported=(
        UnsupportedFeature(
            "do_layer_norm_before",
            False,
            "its norms lie behind attention and MLP (do_layer_norm_before false, as in opt-350m)",
        ),
    ),
)  # fmt: skip

GPT2 = replace(
    _two_blocks(
        "gpt2", "h", "ln_f", "layer_norm",
        Block("attention", "ln_1", "attn", ("c_attn",), "c_proj"),
        Block("mlp", "ln_2", "mlp", ("c_fc",), "c_proj"),
        values="stacked_values", hidden={"activation": "activation_function"},
    ),
    unsupported=(
        UnsupportedFeature("add_cross_attention", True, "it has cross-attention, for an encoder beside it"),
    ),
)  # fmt: skip

GPT_NEOX = replace(
    _two_blocks(
        "gpt_neox", "layers", "final_layer_norm", "layer_norm",
        Block("attention", "input_layernorm", "attention", ("query_key_value",), "dense"),
        Block("mlp", "post_attention_layernorm", "mlp", ("dense_h_to_4h",), "dense_4h_to_h"),
        values="interleaved_values", hidden={"activation": "hidden_act"},
    ),
    parallel="use_parallel_residual",
    head_as="embed_out",
    scaled_activation="mlp.act",
)  # fmt: skip

BLOOM = replace(
    _two_blocks(
        "bloom", "h", "ln_f", "layer_norm",
        Block("attention", "input_layernorm", "self_attention", ("query_key_value",), "dense", residual_argument=True),
        Block("mlp", "post_attention_layernorm", "mlp", ("dense_h_to_4h",), "dense_4h_to_h", residual_argument=True),
        values="interleaved_values", hidden={"obstacle": GELU_BETWEEN},
    ),
    returns_tuple=True,
    scaled_activation="mlp.gelu_impl",
    unsupported=(
        UnsupportedFeature(
            "apply_residual_connection_post_layernorm",
            True,
            "its residuals start behind the norms (apply_residual_connection_post_layernorm true)",
        ),
        UnsupportedFeature(
            "slow_but_exact", True, "it splits its closing linears (slow_but_exact true); set that to false"
        ),
    ),
)  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {
    item.model_type: item
    for item in (
        LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA2, GEMMA3, OPT, GPT2, GPT_NEOX, BLOOM, MIXTRAL, QWEN3_MOE,
        QWEN2_MOE, OLMOE,
    )
}  # fmt: skip
