"""Architectures as data: which modules a decoder layer has, in which order, and which share an input.

A decoder layer of a pre-norm transformer is a chain of residual blocks. Each block is

    h  <-  h + output(core(norm(h)))

where `core` is the block's module (attention, MLP) without its closing linear. That one sentence gives
everything a pass needs: the linears named in `inputs` all read norm(h), so they share one Gram matrix;
`output` reads what the core makes of it; and a block can be run in two halves with the rounded weights
of the first half in place before the statistics of the second are gathered.

Another architecture of this shape is another entry of ARCHITECTURES, no code.
"""

from dataclasses import dataclass
from typing import Literal

from quantization_api.failures import Category, QuantizationError


@dataclass(frozen=True)
class Block:
    """One residual block of a decoder layer; names are relative to the layer (inputs, output: to `module`)."""

    kind: Literal["attention", "mlp"]
    norm: str
    module: str
    inputs: tuple[str, ...]
    output: str

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the linears that share the block's input, relative to the layer."""
        return tuple(f"{self.module}.{name}" for name in self.inputs)

    @property
    def output_name(self) -> str:
        """Name of the linear that closes the block, relative to the layer."""
        return f"{self.module}.{self.output}"


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a model are.

    layer_class, norm_class, rotary_class: names in transformers' modelling module of the model type.
    embedding, layers, final_norm, head: dotted names in the checkpoint.
    ignored: suffixes of tensors that old checkpoints carry and that are computed, not stored, today.
    """

    model_type: str
    module: str
    layer_class: str
    norm_class: str
    rotary_class: str
    embedding: str
    layers: str
    final_norm: str
    head: str
    blocks: tuple[Block, ...]
    ignored: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The linears of a layer in execution order, those that share an input together."""
        return tuple(names for block in self.blocks for names in (block.input_names, (block.output_name,)))

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of a layer, in execution order."""
        return tuple(name for stage in self.stages for name in stage)


LLAMA = Architecture(
    model_type="llama",
    module="transformers.models.llama.modeling_llama",
    layer_class="LlamaDecoderLayer",
    norm_class="LlamaRMSNorm",
    rotary_class="LlamaRotaryEmbedding",
    embedding="model.embed_tokens",
    layers="model.layers",
    final_norm="model.norm",
    head="lm_head",
    blocks=(
        Block("attention", "input_layernorm", "self_attn", ("q_proj", "k_proj", "v_proj"), "o_proj"),
        Block("mlp", "post_attention_layernorm", "mlp", ("gate_proj", "up_proj"), "down_proj"),
    ),
    ignored=("rotary_emb.inv_freq",),
)

ARCHITECTURES: dict[str, Architecture] = {item.model_type: item for item in (LLAMA,)}


def find_architecture(config: dict[str, object]) -> Architecture:
    """The architecture of a model's config.json; ModelUnsupported says what was found and what is supported."""
    model_type = config.get("model_type")
    architectures = config.get("architectures") or []
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        names = architectures if isinstance(architectures, list) else []
        if names and not any(str(name).endswith("ForCausalLM") for name in names):
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"config.json says architectures {names}; only causal language models are supported",
            )
        return ARCHITECTURES[model_type]
    raise QuantizationError(
        Category.MODEL_UNSUPPORTED,
        f"config.json says model_type {model_type!r} (architectures {architectures}); "
        f"supported model types: {', '.join(sorted(ARCHITECTURES))}",
    )
