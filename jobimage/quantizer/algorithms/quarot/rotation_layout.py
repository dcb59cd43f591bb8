"""What a rotation needs to know of an architecture: who reads and who writes the residual stream.

Weights are [outputs, inputs] and names are relative to the decoder layer. The data of another architecture
is another instance, no code; `llama_layout` shows one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NormKind = Literal["rms", "rms_plus_one", "layer", "layer_plus_one"]
"""rms: x / rms(x) * w. layer: LayerNorm, w and bias. plus_one: with 1 + w in the place of w, as gemma and nemotron have
it."""
PLUS_ONE: tuple[NormKind, ...] = ("rms_plus_one", "layer_plus_one")
CENTRED: tuple[NormKind, ...] = ("layer", "layer_plus_one")
"""Those that subtract the mean of what they read."""


@dataclass(frozen=True)
class NormSite:
    """A norm on the residual stream, and the linears and routers that read its output."""

    name: str
    """Without a tensor `NAME.weight` it has no weight to fold."""
    kind: NormKind
    readers: tuple[str, ...]


@dataclass(frozen=True)
class HeadSite:
    """The values of the attention heads, between the linear that makes them and the one that reads them."""

    value: str
    """Name of the linear that makes them (it may make q and k as well)."""
    value_rows: tuple[int, ...]
    """First row, in `value`, of each key-value head's values."""
    output: str
    """Name of the linear that reads them."""
    heads: int
    """Query heads, in the order of the columns of `output`."""
    head_dim: int


@dataclass(frozen=True)
class LayerLayout:
    """A decoder layer."""

    norms: tuple[NormSite, ...]
    """On the residual stream."""
    writers: tuple[str, ...]
    """Linears whose output is added to the stream."""
    attention: HeadSite | None
    """None where no rule says which rows make a head's values: they are not turned (no R2)."""
    down: str | None
    """The linear that reads the MLP's inner activations; None where experts do it."""
    down_width: int
    """Inputs of that linear."""
    post_norms: tuple[str, ...] = ()
    """Norms between a writer and the stream (gemma2, gemma3, olmo2): with them no R1."""
    shifts: tuple[str, ...] = ()
    """Tensors with a number for each channel, of no linear, that are added to the stream (gpt_neox_japanese)."""


@dataclass(frozen=True)
class ModelLayout:
    """A model. Names are those of the checkpoint."""

    width: int
    """Of the residual stream."""
    tables: tuple[str, ...]
    """Embeddings whose rows enter the stream (positions too)."""
    final_norm: NormSite
    """Its only reader is the head, or what comes before the head (megatron-bert)."""
    head: str
    tied: bool
    """Whether the head is the embedding."""
    layer: LayerLayout
    embedding_norm: str | None = None
    """A norm between embedding and stream (bloom)."""
    obstacle: str | None = None
    """Why the residual stream of this model cannot be rotated, where that was found by trying."""
    further: tuple[LayerLayout, ...] = ()
    """Of the other layers, where they are not all built like `layer`."""

    @property
    def mean_preserving(self) -> bool:
        """LayerNorm subtracts the mean: the residual rotation must keep its direction."""
        norms = (norm for layer in (self.layer, *self.further) for norm in layer.norms)
        return any(norm.kind in CENTRED for norm in (*norms, self.final_norm))


def residual_obstacle(layout: ModelLayout) -> str | None:
    """Why the residual stream of an architecture cannot be rotated (R1); None when it can."""
    if layout.obstacle:
        return layout.obstacle
    if layout.layer.post_norms:
        return (
            f"{layout.layer.post_norms[0]} scales what a block adds to the residual stream, channel by channel, "
            "so the stream cannot be rotated"
        )
    if layout.embedding_norm:
        return (
            f"{layout.embedding_norm} scales the embeddings, channel by channel, before they enter the residual "
            "stream, so the stream cannot be rotated"
        )
    return None


def llama_layout(config: Mapping[str, Any]) -> ModelLayout:
    """The layout of llama, mistral, qwen2 and qwen3 from config.json."""
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or width // heads)
    attention = HeadSite(
        "self_attn.v_proj",
        tuple(head * head_dim for head in range(kv_heads)),
        "self_attn.o_proj",
        heads,
        head_dim,
    )
    layer = LayerLayout(
        norms=(
            NormSite("input_layernorm", "rms", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            NormSite("post_attention_layernorm", "rms", ("mlp.gate_proj", "mlp.up_proj")),
        ),
        writers=("self_attn.o_proj", "mlp.down_proj"),
        attention=attention,
        down="mlp.down_proj",
        down_width=int(config["intermediate_size"]),
    )
    return ModelLayout(
        width,
        ("model.embed_tokens",),
        NormSite("model.norm", "rms", ("lm_head",)),
        "lm_head",
        bool(config.get("tie_word_embeddings", False)),
        layer,
    )
