"""The table of architectures. Another model of the same shape is another entry, no code."""

from quantizer.decoder.architecture import Architecture, Block, Experts, Fold, NormKind, UnsupportedFeature

QKV = ("q_proj", "k_proj", "v_proj")
GELU_BETWEEN = "an activation that no scale passes through (GELU) lies between"


def _norm_fold(block: Block, *beside: str) -> Fold:
    return Fold("norm", block.norm, (*block.input_names, *beside))


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
    return Architecture(
        model_type,
        "layers",
        "norm",
        norm,
        (attention, mlp),
        folds=(
            _norm_fold(attention),
            Fold("linear", "self_attn.v_proj", ("self_attn.o_proj",), rows="values"),
            _norm_fold(mlp),
            Fold("linear", "mlp.up_proj", ("mlp.down_proj",)),
        ),
        unsupported=unsupported,
    )


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
    folds = (
        *dense.folds[:2],
        Fold(
            "norm",
            block.norm,
            (f"{module}.{experts.router}", f"{module}.experts.*.{gate}", f"{module}.experts.*.{up}"),
        ),
        Fold("linear", f"{module}.experts.*.{up}", (f"{module}.experts.*.{down}",)),
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

_PHI3_BLOCKS = (
    Block("attention", "input_layernorm", "self_attn", ("qkv_proj",), "o_proj"),
    Block("mlp", "post_attention_layernorm", "mlp", ("gate_up_proj",), "down_proj"),
)
PHI3 = Architecture(
    "phi3",
    "layers",
    "norm",
    "rms",
    _PHI3_BLOCKS,
    folds=(
        _norm_fold(_PHI3_BLOCKS[0]),
        Fold("linear", "self_attn.qkv_proj", ("self_attn.o_proj",), rows="stacked_values"),
        _norm_fold(_PHI3_BLOCKS[1]),
        Fold("linear", "mlp.gate_up_proj", ("mlp.down_proj",), rows="second_half"),
    ),
)

_OPT_BLOCKS = (
    Block("attention", "self_attn_layer_norm", "self_attn", QKV, "out_proj"),
    Block("mlp", "final_layer_norm", "", ("fc1",), "fc2"),
)
OPT = Architecture(
    "opt",
    "decoder.layers",
    "decoder.final_layer_norm",
    "layer_norm",
    _OPT_BLOCKS,
    folds=(
        _norm_fold(_OPT_BLOCKS[0]),
        Fold("linear", "self_attn.v_proj", ("self_attn.out_proj",), rows="values"),
        _norm_fold(_OPT_BLOCKS[1]),
        Fold("linear", "fc1", ("fc2",), activation="activation_function"),
    ),
    unsupported=(
        UnsupportedFeature(
            "do_layer_norm_before",
            False,
            "its norms lie behind attention and MLP (do_layer_norm_before false, as in opt-350m)",
        ),
    ),
)

_GPT2_BLOCKS = (
    Block("attention", "ln_1", "attn", ("c_attn",), "c_proj"),
    Block("mlp", "ln_2", "mlp", ("c_fc",), "c_proj"),
)
GPT2 = Architecture(
    "gpt2",
    "h",
    "ln_f",
    "layer_norm",
    _GPT2_BLOCKS,
    folds=(
        _norm_fold(_GPT2_BLOCKS[0]),
        Fold("linear", "attn.c_attn", ("attn.c_proj",), rows="stacked_values"),
        _norm_fold(_GPT2_BLOCKS[1]),
        Fold("linear", "mlp.c_fc", ("mlp.c_proj",), activation="activation_function"),
    ),
    unsupported=(
        UnsupportedFeature("add_cross_attention", True, "it has cross-attention, for an encoder beside it"),
    ),
)

_NEOX_BLOCKS = (
    Block("attention", "input_layernorm", "attention", ("query_key_value",), "dense"),
    Block("mlp", "post_attention_layernorm", "mlp", ("dense_h_to_4h",), "dense_4h_to_h"),
)
GPT_NEOX = Architecture(
    "gpt_neox",
    "layers",
    "final_layer_norm",
    "layer_norm",
    _NEOX_BLOCKS,
    folds=(
        _norm_fold(_NEOX_BLOCKS[0]),
        Fold("linear", "attention.query_key_value", ("attention.dense",), rows="interleaved_values"),
        _norm_fold(_NEOX_BLOCKS[1]),
        Fold("linear", "mlp.dense_h_to_4h", ("mlp.dense_4h_to_h",), activation="hidden_act"),
    ),
    parallel="use_parallel_residual",
    head_as="embed_out",
    scaled_activation="mlp.act",
)

_BLOOM_BLOCKS = (
    Block("attention", "input_layernorm", "self_attention", ("query_key_value",), "dense", residual_argument=True),
    Block("mlp", "post_attention_layernorm", "mlp", ("dense_h_to_4h",), "dense_4h_to_h", residual_argument=True),
)  # fmt: skip
BLOOM = Architecture(
    "bloom",
    "h",
    "ln_f",
    "layer_norm",
    _BLOOM_BLOCKS,
    folds=(
        _norm_fold(_BLOOM_BLOCKS[0]),
        Fold(
            "linear", "self_attention.query_key_value", ("self_attention.dense",), rows="interleaved_values"
        ),
        _norm_fold(_BLOOM_BLOCKS[1]),
        Fold("linear", "mlp.dense_h_to_4h", ("mlp.dense_4h_to_h",), obstacle=GELU_BETWEEN),
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
)

ARCHITECTURES: dict[str, Architecture] = {
    item.model_type: item
    for item in (
        LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA2, GEMMA3, OPT, GPT2, GPT_NEOX, BLOOM, MIXTRAL, QWEN3_MOE,
    )
}  # fmt: skip
