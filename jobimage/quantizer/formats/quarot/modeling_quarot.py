"""A rotated and quantized decoder (QuaRot, arXiv 2404.00456) for transformers, carried by its checkpoint.

Load it with AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True). The stock decoder of the
family is built and its attention and MLP are replaced by what is written here:

    linears     integers of 2 to 8 bits, unpacked when they are used (tensors: see QuarotLinear)
    inputs      of q, k, v; of o; of gate, up; of down: rounded per token when a_bits is below 16
    rotations   q and k after RoPE, heads before o, all inputs of down; made from (size, seed) in the config
    cache       keys and values as packed integers with a scale and a zero point for each group of a head

config.json says under "quarot": w_bits, w_asym, w_groupsize, s_bits, a_bits, a_asym, a_clip_ratio,
a_groupsize, k_bits, k_clip_ratio, k_groupsize, v_bits, v_clip_ratio, v_groupsize (a groupsize of null is
all of it) and "rotations": {"keys" | "heads" | "down": seed}.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from quantizer.algorithms.quarot.hadamard import Rotation


def words(count: int, bits: int) -> int:
    """int32 words of that many values."""
    return -(-count * bits // 32)


def pack(values: Tensor, bits: int) -> Tensor:
    """Integers [..., n] below 2^bits as one stream of bits in int32 words, least significant bit first.

    Value i occupies bits [i * bits, (i + 1) * bits) of its row's stream; the last word is filled with zeros.
    """
    count = values.shape[-1]
    places = torch.arange(32, device=values.device, dtype=torch.int32)
    stream = values.unsqueeze(-1).to(torch.int32) >> places[:bits] & 1
    stream = nn.functional.pad(stream.flatten(-2), (0, words(count, bits) * 32 - count * bits))
    stream = stream.unflatten(-1, (-1, 32)) << places
    packed: Tensor = stream.sum(-1, dtype=torch.int32)  # bits are disjoint: the sum is their union
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of pack: int32 [..., count]."""
    first = torch.arange(count, device=packed.device) * bits
    word, shift = first // 32, (first % 32).to(torch.int32)
    here = torch.clamp(32 - shift, max=bits)  # bits that lie in the first of two words
    values: Tensor = packed[..., word] >> shift & (1 << here) - 1
    if 32 % bits:
        crossing = here < bits
        rest = packed[..., word[crossing] + 1] & (1 << (bits - here[crossing])) - 1
        values[..., crossing] |= rest << here[crossing]
    return values


def quantize(x: Tensor, bits: int, symmetric: bool, clip: float, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers [..., n], scales and zero points [..., groups] of x [..., n], dynamically; q = round(x / s) + z.

    Symmetric: s = clip max|x| / (2^(bits-1) - 1), z = 2^(bits-1). Asymmetric: s = clip (max - min) / (2^bits - 1),
    z = round(-clip min / s), with 0 always inside the range. Scales have x's dtype; the rest is float32.
    """
    grouped = x.float().unflatten(-1, (-1, group or x.shape[-1]))
    if symmetric:
        scale = clip * grouped.abs().amax(-1) / (2 ** (bits - 1) - 1)
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        low, high = grouped.amin(-1).clamp(max=0) * clip, grouped.amax(-1).clamp(min=0) * clip
        scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale.to(x.dtype) == 0, 1.0, scale).to(x.dtype)
    if not symmetric:
        zero = torch.round(-low / scale.float()).clamp(0, 2**bits - 1)
    q = torch.round(grouped / scale.float().unsqueeze(-1)) + zero.unsqueeze(-1)
    return q.clamp_(0, 2**bits - 1).to(torch.uint8).flatten(-2), scale, zero.to(torch.uint8)


def dequantize(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(q - z) s of integers [..., n] and scales, zero points [..., groups], in the scales' dtype."""
    grouped = q.unflatten(-1, (scale.shape[-1], -1)).float() - zero.unsqueeze(-1).float()
    read: Tensor = (grouped * scale.unsqueeze(-1).float()).flatten(-2)
    return read.to(scale.dtype)


def rotate(x: Tensor, rotation: Rotation | None) -> Tensor:
    """x R in float32, as the paper does online."""
    if rotation is None:
        return x
    return rotation.apply(x.float()).to(x.dtype)


class QuarotLinear(nn.Module):
    """A linear [N, K] of packed integers.

        qweight      int32    [N, words(K * w_bits)]   one row for each output, packed along K (see pack)
        scales       float16  [N, G]                   s_bits 16
        scale_codes  uint8    [N, G]                   s_bits below 16: scale = code * scale_unit
        scale_unit   float32  [1]
        qzeros       uint8    [N, G]                   only with w_asym; otherwise zero is 2^(w_bits-1)
        bias                  [N]

    weight = (q - zero) * scale, with column k in group k // (K / G).
    """

    qweight: Tensor
    scales: Tensor
    scale_codes: Tensor
    scale_unit: Tensor
    qzeros: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool, settings: dict[str, Any]) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = inputs, outputs, int(settings["w_bits"])
        groups = inputs // (settings["w_groupsize"] or inputs)
        self.register_buffer("qweight", torch.zeros(outputs, words(inputs, self.bits), dtype=torch.int32))
        if settings["s_bits"] == 16:
            self.register_buffer("scales", torch.zeros(outputs, groups, dtype=torch.float16))
        else:
            self.register_buffer("scale_codes", torch.zeros(outputs, groups, dtype=torch.uint8))
            self.register_buffer("scale_unit", torch.zeros(1, dtype=torch.float32))
        if settings["w_asym"]:
            self.register_buffer("qzeros", torch.zeros(outputs, groups, dtype=torch.uint8))
        self.asymmetric = bool(settings["w_asym"])
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K]."""
        coded = hasattr(self, "scale_codes")
        scale = self.scale_codes.float() * self.scale_unit.float() if coded else self.scales.float()
        zero = self.qzeros if self.asymmetric else torch.full_like(scale, 2 ** (self.bits - 1))
        return dequantize(unpack(self.qweight, self.bits, self.in_features), scale, zero).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x W' + b."""
        return nn.functional.linear(x, self.weight(x.dtype), self.bias)


class QuarotSite(nn.Module):
    """What attention and MLP share: their linears, and the rounding of what a linear reads."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings

    def take(self, stock: Any, names: tuple[str, ...]) -> None:
        """Takes over the linears of a stock module, quantized where weights are."""
        for name in names:
            linear = getattr(stock, name)
            if self.settings["w_bits"] < 16:
                sizes = linear.in_features, linear.out_features
                linear = QuarotLinear(*sizes, linear.bias is not None, self.settings)
            setattr(self, name, linear)

    def online(self, site: str, size: int, inner: int = 1) -> Rotation | None:
        """The rotation of a site: keys, heads or down."""
        seed = self.settings["rotations"].get(site)
        return None if seed is None else Rotation(size, seed, inner)

    def rounded(self, x: Tensor) -> Tensor:
        """Activations as the linears read them."""
        s = self.settings
        if s["a_bits"] >= 16:
            return x
        return dequantize(*quantize(x, s["a_bits"], not s["a_asym"], s["a_clip_ratio"], s["a_groupsize"]))


class QuarotAttention(QuarotSite):
    """Attention with rounded inputs, rotated keys and heads, and rounded keys and values."""

    q_proj: Any
    k_proj: Any
    v_proj: Any
    o_proj: Any
    q_norm: Any
    k_norm: Any

    def __init__(self, stock: Any, config: Any) -> None:
        super().__init__(config.quarot)
        self.config, self.layer_idx, self.head_dim = config, stock.layer_idx, stock.head_dim
        self.num_key_value_groups, self.scaling = stock.num_key_value_groups, stock.scaling
        self.attention_dropout, self.is_causal = 0.0, True
        self.sliding_window = getattr(stock, "sliding_window", None)
        self.take(stock, ("q_proj", "k_proj", "v_proj", "o_proj"))
        if hasattr(stock, "q_norm"):
            self.q_norm, self.k_norm = stock.q_norm, stock.k_norm
        self.turn_keys = self.online("keys", self.head_dim)
        self.turn_heads = self.online("heads", self.o_proj.in_features, self.head_dim)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock attention."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        x = self.rounded(hidden_states)
        query, key = self.q_proj(x).view(shape), self.k_proj(x).view(shape)
        if hasattr(self, "q_norm"):
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (t.transpose(1, 2) for t in (query, key, self.v_proj(x).view(shape)))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        query, key = rotate(query, self.turn_keys), rotate(key, self.turn_keys)
        if past_key_values is None:
            key, value = (stored.read() for stored in stored_pair(self.settings, key, value))
        else:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, scores = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        output = output.reshape(*hidden_states.shape[:-1], -1)
        return self.o_proj(self.rounded(rotate(output, self.turn_heads))), scores


class QuarotMLP(QuarotSite):
    """The gated MLP with rounded inputs; the inner activations are rotated before down_proj."""

    gate_proj: Any
    up_proj: Any
    down_proj: Any

    def __init__(self, stock: Any, config: Any) -> None:
        super().__init__(config.quarot)
        self.take(stock, ("gate_proj", "up_proj", "down_proj"))
        self.act_fn = stock.act_fn
        self.turn_down = self.online("down", self.down_proj.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """As the stock MLP."""
        x = self.rounded(x)
        inner = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        output: Tensor = self.down_proj(self.rounded(rotate(inner, self.turn_down)))
        return output


class Stored:
    """Keys or values [batch, heads, tokens, head_dim] as they lie in the cache.

    Below 16 bits: packed integers, scales in the model's dtype and zero points (uint8), one for each group.
    """

    def __init__(self, bits: int, width: int, tensors: list[Tensor]) -> None:
        self.bits, self.width, self.tensors = bits, width, tensors

    @classmethod
    def make(cls, x: Tensor, bits: int, clip: float, group: int) -> "Stored":
        """Rounds new keys or values."""
        if bits >= 16:
            return cls(bits, x.shape[-1], [x])
        q, scale, zero = quantize(x, bits, False, clip, group)
        return cls(bits, x.shape[-1], [pack(q, bits), scale, zero])

    def read(self) -> Tensor:
        """The rounded values."""
        if self.bits >= 16:
            return self.tensors[0]
        packed, scale, zero = self.tensors
        return dequantize(unpack(packed, self.bits, self.width), scale, zero)

    def then(self, new: "Stored") -> "Stored":
        """Followed by the tokens of another."""
        pairs = zip(self.tensors, new.tensors, strict=True)
        return Stored(self.bits, self.width, [torch.cat(pair, dim=2) for pair in pairs])


def stored_pair(settings: dict[str, Any], key: Tensor, value: Tensor) -> tuple[Stored, Stored]:
    """Keys and values as they are stored."""
    s = settings
    return (
        Stored.make(key, s["k_bits"], s["k_clip_ratio"], s["k_groupsize"]),
        Stored.make(value, s["v_bits"], s["v_clip_ratio"], s["v_groupsize"]),
    )


class QuarotCacheLayer(CacheLayerMixin):
    """One layer's cache. `stored` is (keys, values), or None while it is empty."""

    is_croppable = True

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self.stored: tuple[Stored, Stored] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is set aside before the first token."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds tokens; returns the rounded keys and values of all of them."""
        new = stored_pair(self.settings, key_states, value_states)
        if self.stored is not None:
            new = (self.stored[0].then(new[0]), self.stored[1].then(new[1]))
        self.stored, self.is_initialized = new, True
        return new[0].read(), new[1].read()

    def get_seq_length(self) -> int:
        """Tokens that are held."""
        return 0 if self.stored is None else self.stored[0].tensors[0].shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length, offset) of the mask."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def reset(self) -> None:
        """Empties the cache."""
        self.stored, self.is_initialized = None, False

    def _change(self, change: Any) -> None:
        for stored in self.stored or ():
            stored.tensors = [change(tensor) for tensor in stored.tensors]

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last tokens; the number is given negative, as transformers does."""
        if tokens_to_remove > 0:
            raise ValueError("crop takes the number of tokens to remove as a negative number")
        if tokens_to_remove:
            self._change(lambda tensor: tensor[:, :, :tokens_to_remove])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follows the beams."""
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each sequence."""
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some sequences."""
        self._change(lambda tensor: tensor[indices])


def hold_quantized(cache: Cache, config: Any) -> None:
    """Makes an empty DynamicCache hold packed keys and values; one that is of this kind is left alone."""
    if cache.layers and all(isinstance(layer, QuarotCacheLayer) for layer in cache.layers):
        return
    if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length() > 0:
        raise ValueError(
            "this model keeps its own quantized cache: pass no past_key_values and no cache_implementation, or an "
            "empty DynamicCache that is not offloaded"
        )
    cache.layers = [QuarotCacheLayer(config.quarot) for _ in range(config.num_hidden_layers)]
    cache.layer_class_to_replicate = None


def convert_layer(layer: Any, config: Any) -> None:
    """Replaces attention and MLP of a stock decoder layer; weights come with load_state_dict afterwards."""
    layer.self_attn, layer.mlp = QuarotAttention(layer.self_attn, config), QuarotMLP(layer.mlp, config)


class Quarot:
    """Turns the stock model of a family into a quantized one."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        for layer in self.model.layers:  # type: ignore[attr-defined]
            convert_layer(layer, config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """As the stock model; the cache is always a quantized one."""
        config = self.config  # type: ignore[attr-defined]
        use_cache = config.use_cache if use_cache is None else use_cache
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        if past_key_values is not None:
            hold_quantized(past_key_values, config)
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


class QuarotLlamaConfig(LlamaConfig):
    """Llama."""

    model_type = "quarot_llama"


class QuarotMistralConfig(MistralConfig):
    """Mistral."""

    model_type = "quarot_mistral"


class QuarotQwen2Config(Qwen2Config):
    """Qwen2."""

    model_type = "quarot_qwen2"


class QuarotQwen3Config(Qwen3Config):
    """Qwen3."""

    model_type = "quarot_qwen3"


class QuarotLlamaForCausalLM(Quarot, LlamaForCausalLM):
    """Llama."""

    config_class = QuarotLlamaConfig


class QuarotMistralForCausalLM(Quarot, MistralForCausalLM):
    """Mistral."""

    config_class = QuarotMistralConfig


class QuarotQwen2ForCausalLM(Quarot, Qwen2ForCausalLM):
    """Qwen2."""

    config_class = QuarotQwen2Config


class QuarotQwen3ForCausalLM(Quarot, Qwen3ForCausalLM):
    """Qwen3."""

    config_class = QuarotQwen3Config
