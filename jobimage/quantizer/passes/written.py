"""What a pass writes: the facts that decide who can read it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantization_api.manifest import LinearReport
from quantizer.algorithms.grid import Scheme


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
MIXED_WORDS = Words(
    "candidate_bits", "candidate_group_sizes", "sym: true", "sym: false", "inside_layer_modules"
)


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
    head: bool = False
    """Whether the head is quantized too."""
    splits_fused: bool = False
    """Whether it quantizes only some of the linears that servers compute as one (q, k and v; gate and up)."""
    model_type: str = "llama"
    windowed: bool = False
    """Whether layers attend within a sliding window."""
    words: Words = GPTQ_WORDS
    """Of the pass, for messages."""
    schemes: tuple[Scheme, ...] = ()
    """Bits and groups that linears may have, or have, where they differ."""

    @property
    def occurring(self) -> tuple[Scheme, ...]:
        """Bits and groups of all linears."""
        return self.schemes or (Scheme(self.bits, self.group_size),)


def told(schemes: Iterable[Scheme]) -> str:
    """Schemes of linears in words, the fewest bits first: "3 bits in 26 linears, 4 bits in 16"; "" without any."""
    counts = Counter(schemes)
    several = len({scheme.group_size for scheme in counts}) > 1
    order = sorted(counts, key=lambda scheme: (scheme.bits, -scheme.group_size))
    first, *rest = [
        f"{scheme.bits} bits{_groups(scheme.group_size) if several else ''} in {counts[scheme]:,}"
        for scheme in order
    ] or [""]
    return ", ".join([f"{first} linears" if first else "", *rest])


def _groups(size: int) -> str:
    return " and whole rows" if size == -1 else f" and groups of {size}"


def schemes_of(linears: Sequence[LinearReport]) -> dict[str, Scheme]:
    """Bits and groups of the linears whose reports have them, by full name: none unless they were chosen."""
    return {
        linear.name: Scheme(linear.bits, linear.group_size)
        for linear in linears
        if linear.bits is not None and linear.group_size is not None
    }
