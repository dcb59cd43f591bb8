"""What a rotation has to know of an architecture: who reads and who writes the residual stream.

Weights are [outputs, inputs] and names are relative to the decoder layer. The data of another architecture
is another instance, no code; `llama_layout` shows one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NormKind = Literal["rms", "rms_plus_one", "layer"]
"""rms: x / rms(x) * w. rms_plus_one: x / rms(x) * (1 + w), as gemma has it. layer: LayerNorm, w and bias."""


@dataclass(frozen=True)
class NormSite:
    """A norm on the residual stream and the linears that read its output."""

    name: str
    kind: NormKind
    readers: tuple[str, ...]


@dataclass(frozen=True)
class HeadSite:
    """The values of the attention heads, between the linear that makes them and the one that reads them.

    value, output: names of the linears (`value` may be fused with q and k).
    value_rows: first row, in `value`, of each key-value head's values.
    heads: query heads, in the order of the columns of `output`.
    """

    value: str
    value_rows: tuple[int, ...]
    output: str
    heads: int
    head_dim: int


@dataclass(frozen=True)
class LayerLayout:
    """A decoder layer.

    norms: on the stream, with their readers. writers: linears whose output is added to the stream.
    post_norms: norms between a writer and the stream (gemma2, gemma3, olmo2): with them no R1.
    down: the linear that reads the MLP's inner activations; None where experts do it.
    """

    norms: tuple[NormSite, ...]
    writers: tuple[str, ...]
    attention: HeadSite
    down: str | None
    down_width: int
    post_norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelLayout:
    """A model. Names are those of the checkpoint.

    width: of the residual stream. tables: embeddings whose rows enter it (positions too).
    final_norm: read by the head; its readers are (head,).
    tied: the head is the embedding. embedding_norm: a norm between embedding and stream (bloom), or None.
    """

    width: int
    tables: tuple[str, ...]
    final_norm: NormSite
    head: str
    tied: bool
    layer: LayerLayout
    embedding_norm: str | None = None

    @property
    def mean_preserving(self) -> bool:
        """LayerNorm subtracts the mean: the residual rotation must keep its direction."""
        return any(norm.kind == "layer" for norm in (*self.layer.norms, self.final_norm))


def residual_obstacle(layout: ModelLayout) -> str | None:
    """Why the residual stream of an architecture cannot be rotated (R1); None when it can."""
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
