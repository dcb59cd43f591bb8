"""What a pass writes: the facts that decide who can read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The parameters of a workflow that decide whether a reader can read the result, as a pass calls them."""

    bits: str
    group_size: str
    symmetric: str
    asymmetric: str
    part: str
    """The one that leaves linears out; "" if there is none."""


GPTQ_WORDS = Words("bits", "group_size", "sym: true", "sym: false", "inside_layer_modules")


@dataclass(frozen=True)
class Written:
    """What a reader must be able to read."""

    layout: str
    """float, gptq, gptq_v2, compressed-tensors, quarot, or awq and its version, as in "awq gemm"."""
    bits: int
    group_size: int
    symmetric: bool
    desc_act: bool = False
    """Whether the columns of a group do not lie one after another."""
    part: bool = False
    """Whether some linears of the decoder layers stay as they are."""
    splits_fused: bool = False
    """Whether it quantizes only some of the linears that servers compute as one (q, k and v; gate and up)."""
    model_type: str = "llama"
    windowed: bool = False
    """Whether layers attend within a sliding window."""
    words: Words = GPTQ_WORDS
    """Of the pass, for messages."""
