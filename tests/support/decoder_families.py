"""Tiny random models of every architecture, written with transformers itself."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tests.support.engine import CPU
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import ModuleNames, SharedInput, Stage
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.walk import LayerWalk

WIDTH, VOCABULARY, WINDOW = 32, 61, 5
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2}
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_LIKE = {**SIZES, **GQA, "intermediate_size": 48, "tie_word_embeddings": False}
GEMMA = {
    **LLAMA_LIKE,
    "num_hidden_layers": 3,
    "head_dim": 12,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 12,
}
SPARSE = {**LLAMA_LIKE, "num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", LLAMA_LIKE),
    "llama, tied, biases": (
        "llama",
        {**LLAMA_LIKE, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral, short window": ("mistral", {**LLAMA_LIKE, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", LLAMA_LIKE),
    "qwen2, window in the last layers": (
        "qwen2",
        {**LLAMA_LIKE, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {**LLAMA_LIKE, "head_dim": 12}),
    "phi3": ("phi3", LLAMA_LIKE),
    "phi3, partial rotary, window": (
        "phi3",
        {**LLAMA_LIKE, "partial_rotary_factor": 0.5, "sliding_window": WINDOW},
    ),
    "gemma2": ("gemma2", {**GEMMA, "tie_word_embeddings": True}),
    "gemma2, tight caps": (
        "gemma2",
        {**GEMMA, "attn_logit_softcapping": 0.3, "final_logit_softcapping": 0.2},
    ),
    "gemma3": (
        "gemma3_text",
        {**GEMMA, "tie_word_embeddings": True, "sliding_window_pattern": 2},
    ),
    "opt": ("opt", {**SIZES, "num_attention_heads": 4, "ffn_dim": 48}),
    "opt, untied, no bias, gelu": (
        "opt",
        {
            **SIZES,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "tie_word_embeddings": False,
            "enable_bias": False,
            "activation_function": "gelu",
        },
    ),
    "gpt2": ("gpt2", {**SIZES, "num_attention_heads": 4}),
    "gpt2, scaled by layer": (
        "gpt2",
        {**SIZES, "num_attention_heads": 4, "n_inner": 40, "scale_attn_by_inverse_layer_idx": True},
    ),
    "gpt_neox, parallel": ("gpt_neox", {**SIZES, "num_attention_heads": 4, "intermediate_size": 48}),
    "gpt_neox, one after the other": (
        "gpt_neox",
        {**SIZES, "num_attention_heads": 4, "intermediate_size": 48, "use_parallel_residual": False},
    ),
    "bloom": ("bloom", {**SIZES, "n_head": 4}),
    "bloom, 6 heads": (
        "bloom",
        {**SIZES, "hidden_size": 24, "n_head": 6},
    ),
    "mixtral": ("mixtral", {**SPARSE, "num_local_experts": 4, "sliding_window": WINDOW}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            **SPARSE,
            "num_hidden_layers": 4,
            "head_dim": 12,
            "num_experts": 5,
            "moe_intermediate_size": 20,
            "norm_topk_prob": False,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        },
    ),
    "qwen3_moe, all sparse, normalized": (
        "qwen3_moe",
        {**SPARSE, "num_experts": 3, "moe_intermediate_size": 20, "norm_topk_prob": True},
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {
            **SPARSE,
            "num_hidden_layers": 3,
            "num_experts": 4,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 28,
            "mlp_only_layers": [1],
        },
    ),
    "olmoe": ("olmoe", {**SPARSE, "num_experts": 4, "attention_bias": True, "norm_topk_prob": True}),
}

UNKNOWN: dict[str, tuple[str, dict[str, Any], ModuleNames]] = {
    "stablelm": (
        "stablelm",
        {**LLAMA_LIKE, "use_parallel_residual": True},
        ModuleNames(
            "model.layers",
            (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                ("self_attn.o_proj",),
                ("mlp.gate_proj", "mlp.up_proj"),
                ("mlp.down_proj",),
            ),
            ("model.embed_tokens", "model.norm"),
        ),
    ),
    "starcoder2": (
        "starcoder2",
        {**LLAMA_LIKE, "sliding_window": WINDOW},
        ModuleNames(
            "model.layers",
            (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                ("self_attn.o_proj",),
                ("mlp.c_fc",),
                ("mlp.c_proj",),
            ),
        ),
    ),
    "phi, head with a bias": (
        "phi",
        {**LLAMA_LIKE, "num_key_value_heads": 4},
        ModuleNames(
            "model.layers",
            (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"),
                ("self_attn.dense",),
                ("mlp.fc2",),
            ),
        ),
    ),
    "granite, scaled logits": (
        "granite",
        {**LLAMA_LIKE, "logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
        ModuleNames("model.layers", (("self_attn.v_proj", "self_attn.q_proj"), ("mlp.down_proj",))),
    ),
    "gptj": (
        "gptj",
        {
            "vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4,
            "n_inner": 40,
        },
        ModuleNames(
            "transformer.h",
            (("attn.k_proj", "attn.v_proj", "attn.q_proj"), ("attn.out_proj",), ("mlp.fc_in",), ("mlp.fc_out",)),
        ),
    ),
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any], ModuleNames | None]] = {
    **{name: (*case, None) for name, case in FAMILIES.items()},
    **UNKNOWN,
}
"""All of them: model type, fields of the config, and the names of an architecture that is not in the table."""


def make_model(model_type: str, fields: dict[str, Any], seed: int = 0) -> Any:
    """A random model; every parameter (norms, biases, router) differs from its initial value."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else 1.3 / parameter.shape[-1] ** 0.5
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.train(False)


def open_model(folder: Path, modules: ModuleNames | None = None) -> DecoderModel:
    """The model as the engine has it."""
    source = DirectorySource(folder)
    return DecoderModel(DecoderLayout.open(source, modules), CPU)


def layer_weights(model: DecoderModel, index: int) -> dict[str, Tensor]:
    """The tensors of a layer by their names in it."""
    prefix = model.layout.layer_prefix(index)
    return {
        name: model.layout.reader.tensor(prefix + name).clone() for name in model.layout.layer_shapes(index)
    }


def token_batches(generator_seed: int = 3) -> list[Tensor]:
    """Batches of two shapes, longer than the sliding window; the padding token occurs as a token."""
    generator = torch.Generator().manual_seed(generator_seed)
    batches = [
        torch.randint(0, VOCABULARY, shape, generator=generator) for shape in ((2, 17), (2, 17), (1, 9))
    ]
    batches[0][0, :2] = 0
    return batches


class Stores:
    """Makes activation stores in a directory, and remembers them."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.folder, self.dtype = folder, dtype
        self.made: list[str] = []

    def __call__(self, name: str, shapes: Sequence[tuple[int, int]], width: int) -> ActivationStore:
        self.made.append(name)
        return ActivationStore(self.folder / f"store.{name}", shapes, width, self.dtype, CPU)


def theirs(model: Any, batches: Sequence[Tensor]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """transformers' whole model: by batch the hidden states before and behind each layer, and the logits.

    Layers are watched with hooks, for output_hidden_states replaces the last one by its norm.
    """
    states: list[list[Tensor]] = []
    logits: list[Tensor] = []
    layers = max(
        (module for module in model.modules() if isinstance(module, nn.ModuleList)),
        key=lambda module: sum(parameter.numel() for parameter in module.parameters()),
    )
    with ExitStack() as stack, torch.no_grad():
        seen: list[Tensor] = []

        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if not seen:
                seen.append(args[0] if args else kwargs["hidden_states"])

        def behind(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(output[0] if isinstance(output, tuple) else output)

        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(behind).remove)
        for batch in batches:
            seen.clear()
            logits.append(model(input_ids=batch, use_cache=False).logits)
            states.append(list(seen))
    return states, logits


def relative(ours: Tensor, expected: Tensor) -> float:
    """Largest difference by the largest value."""
    assert ours.shape == expected.shape, (ours.shape, expected.shape)
    return float((ours - expected).abs().max() / expected.abs().max())


def inputs_of(
    walk: LayerWalk, stages: Sequence[Stage], *, propagate_unrounded: bool = False
) -> list[tuple[SharedInput, Tensor]]:
    """What the linears of the next stages read, batch after batch."""
    found: dict[int, list[tuple[SharedInput, Tensor]]] = defaultdict(list)
    walk.visit(
        stages,
        lambda number, shared, read: found[number].append((shared, read)),
        propagate_unrounded=propagate_unrounded,
    )
    return [seen for number in sorted(found) for seen in found[number]]
