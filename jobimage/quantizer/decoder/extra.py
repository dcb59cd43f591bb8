"""Tensors of a checkpoint that the model of its config.json does not use: what becomes of each.

transformers loads such a checkpoint and ignores them. What is computed today is left out; what belongs to somebody
else (a value head, layers that predict further tokens) is copied. What shows that config.json does not describe the
weights is refused: the model that is computed would not be the one that was trained.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from quantizer.checkpoint.weight_files import MERGE
from quantizer.decoder.skeleton import unsupported

COMPUTED = (
    r"rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$",
    r"\.(attn|attention|self_attn|self_attention)\.(masked_)?bias$",
    r"(^|\.)position_ids$",
)
"""Tensors of old checkpoints that are computed, not stored, today: rotary frequencies, causal masks, positions."""
CURES = (
    (r"lora_", MERGE),
    (
        r"\.(weight_scale(_inv)?|input_scale|absmax|quant_map|SCB|qweight|qzeros|scales)$",
        "The weights are quantized already: start from the model's fp16, bf16 or fp32 checkpoint.",
    ),
    (
        r"\.bias$",
        "If the model has biases, say so in config.json (attention_bias and mlp_bias of a llama); if it has none, "
        "remove the tensors.",
    ),
)
"""In the name of a tensor of a layer -> what to do; the first that is found."""
OTHER_CURE = (
    "config.json does not describe these weights: correct its model_type and the fields about what a layer has, or "
    "remove the tensors if the model does not need them."
)


@dataclass(frozen=True)
class Extra:
    """Names of the tensors that the decoder of text does not use."""

    left_out: tuple[str, ...] = ()
    """Computed today, or biases that are zero."""
    unused: tuple[str, ...] = ()
    """Of what lies beside the model: copied where the result is still what they belong to."""
    beside: tuple[str, ...] = ()
    """The model's own, which text alone never runs, such as those of a tower for images: copied."""


@dataclass(frozen=True)
class _Layers:
    prefix: str
    count: int
    names: Collection[str]

    def place(self, name: str) -> tuple[int, str] | None:
        """The number of the layer that a tensor is in, and its name there."""
        number, dot, rest = name.removeprefix(self.prefix).partition(".")
        return (int(number), rest) if name.startswith(self.prefix) and dot and number.isdecimal() else None


def sort_extra(
    extra: Sequence[str],
    layers_name: str,
    count: int,
    in_a_layer: Collection[str],
    computed: Collection[str],
    idle: Collection[str],
    is_zero: Callable[[str], bool],
) -> Extra:
    """What becomes of tensors that the model does not use.

    Args:
        extra: their names.
        layers_name: dotted name of the list of layers. count: how many config.json says.
        in_a_layer: names of the tensors that a layer has.
        computed: patterns of the names that the model's class ignores, beside COMPUTED.
        idle: names of rows of experts that do nothing.
        is_zero: whether a tensor has no other values.

    Raises:
        QuantizationError: ModelUnsupported for tensors of layers that show that config.json is not theirs.
    """
    layers = _Layers(f"{layers_name}.", count, in_a_layer)
    left = [name for name in extra if not any(re.search(one, name) for one in (*COMPUTED, *computed))]
    _check_count(left, layers)
    inside = {name: None for name in left if (place := layers.place(name)) and place[0] < count}
    inside = {name: None for name in inside if name not in idle}
    wrong = [name for name in inside if not (name.endswith(".bias") and is_zero(name))]
    if wrong:
        cure = next((cure for pattern, cure in CURES if re.search(pattern, wrong[0])), OTHER_CURE)
        raise unsupported(
            f"the layers of the checkpoint have {len(wrong)} tensors that those of config.json do not have, the "
            f"first is {wrong[0]}",
            cure,
        )
    unused = {name: None for name in left if name not in inside}
    return Extra(tuple(name for name in extra if name not in unused), tuple(unused))


def _check_count(extra: Sequence[str], layers: _Layers) -> None:
    """A further layer that is like the others is one of the model; one with tensors of its own (MTP) is not."""
    further: dict[int, set[str]] = {}
    for name in extra:
        if (place := layers.place(name)) and place[0] >= layers.count:
            further.setdefault(place[0], set()).add(place[1])
    alike = [number for number, names in further.items() if names <= set(layers.names)]
    if alike:
        raise unsupported(
            f"config.json says {layers.count} layers, but the checkpoint has {max(alike) + 1}",
            f"Set num_hidden_layers in config.json to {max(alike) + 1}, or remove the tensors of the further layers.",
        )
