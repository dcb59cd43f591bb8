"""Over how many devices a server can split an artifact's linears (tensor parallelism), from their shapes alone.

A server gives each device as many heads and as many inner channels as every other one. It cuts the linears that read
the residual stream by outputs, and those that write to it by inputs: there a group of weights that share a scale must
not be cut in two, and packed integers must fill whole words on each device.
"""

from collections.abc import Sequence

from quantizer.algorithms.grid import Scheme
from quantizer.decoder.architecture import Block
from quantizer.decoder.layout import DecoderLayout

DEGREES = (1, 2, 4, 8, 16)
WORD_BITS = 32


def degrees(layout: DecoderLayout, schemes: Sequence[Scheme], *, head: bool = False) -> list[int]:
    """The numbers of devices that every linear of a layer allows; 1 alone where its structure is not known.

    schemes: bits and groups that occur; every linear may have any of them. head: whether the head is one of them, which
    is cut by outputs.
    """
    if not layout.architecture.blocks or layout.architecture.experts is not None:
        return [1]
    return [
        devices
        for devices in DEGREES
        if devices == 1 or all(_splits_all(layout, devices, one, head=head) for one in schemes)
    ]


def _splits_all(layout: DecoderLayout, devices: int, scheme: Scheme, *, head: bool) -> bool:
    word = _word(scheme.bits)
    if head and layout.vocabulary % (devices * word):
        return False
    blocks = layout.architecture.blocks
    return all(_splits(layout, block, devices, word, scheme.group_size) for block in blocks)


def _word(bits: int) -> int:
    """Weights that fill whole words."""
    return WORD_BITS // bits if WORD_BITS % bits == 0 else WORD_BITS


def _splits(layout: DecoderLayout, block: Block, devices: int, word: int, group_size: int) -> bool:
    shapes = layout.linear_shapes(0)
    inner = shapes[block.output_name][1]
    if inner % devices or (group_size > 0 and inner // devices % group_size):
        return False
    if block.kind != "attention":
        return all(shapes[name][0] % (devices * word) == 0 for name in block.input_names)
    heads = int(layout.config.num_attention_heads)
    shared = max(0, layout.number("num_key_value_heads") or 0) or heads
    replicated = devices % shared == 0
    return heads % devices == 0 and (replicated or shared % devices == 0) and inner // heads % word == 0
