"""The GPTQ checkpoint format, version 1 (`checkpoint_format: gptq`).

A linear with K inputs, N outputs, b bits and G groups:

    tensor   dtype  shape          content
    qweight  int32  [K*b/32, N]    integers, packed along K (see bit_packing)
    qzeros   int32  [G, N*b/32]    zero point MINUS ONE, packed along N
    scales   fp16   [G, N]
    g_idx    int32  [K]            group of each input column
    bias     -      [N]            only where the linear has one; unchanged

    weight[n, k] = (q[n, k] - zero[n, g]) * scale[n, g]   with g = g_idx[k]

A zero point of 0 would be stored as -1 and wrap around: readers disagree about what it means then, so it
is never written (grid.fit_grid does not make one) and refused when it is read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.formats.bit_packing import pack_bits, period, unpack_bits
from quantizer.passes.gptq import GptqConfig
from quantizer.passes.grid import dequantize

TENSORS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class Unpacked:
    """A linear as read back: integers [N, K] uint8, scales [N, G] fp16, zeros [N, G] int16, group_of [K]."""

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    group_of: Tensor


def tensor_shapes(
    rows: int, columns: int, bits: int, groups: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of the tensors of a linear [rows (N), columns (K)]."""
    return {
        "qweight": (torch.int32, (columns * bits // 32, rows)),
        "qzeros": (torch.int32, (groups, rows * bits // 32)),
        "scales": (torch.float16, (groups, rows)),
        "g_idx": (torch.int32, (columns,)),
    }


def check_shape(name: str, rows: int, columns: int, bits: int) -> None:
    """Raises ModelUnsupported when a linear's sizes do not fill whole words."""
    count, _ = period(bits)
    for what, size in (("inputs", columns), ("outputs", rows)):
        if size % count:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"{name} has {size} {what}; the gptq format packs {bits}-bit weights of multiples of {count} only",
            )


def pack(integers: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor, bits: int) -> dict[str, Tensor]:
    """The tensors of a linear from integers [N, K], scales and zeros [N, G] and the group of each column [K]."""
    stored = zeros.t().round().to(torch.int64) - 1
    if stored.numel() and int(stored.min()) < 0:
        raise ValueError("a zero point of 0 cannot be stored: it would wrap")
    return {
        "qweight": pack_bits(integers.t(), bits).contiguous(),
        "qzeros": pack_bits(stored.t(), bits).t().contiguous(),
        "scales": scales.t().to(torch.float16).contiguous(),
        "g_idx": group_of.to(torch.int32).contiguous(),
    }


def unpack(name: str, tensors: dict[str, Tensor], bits: int) -> Unpacked:
    """The inverse of pack; ArtifactCorrupt names a linear with a wrapped zero point or an impossible group."""
    stored = unpack_bits(tensors["qzeros"].t(), bits)
    zeros = stored.to(torch.int16) + 1
    groups = tensors["scales"].shape[0]
    index = tensors["g_idx"]
    if zeros.numel() and int(zeros.max()) > 2**bits - 1:
        raise QuantizationError(Category.ARTIFACT_CORRUPT, f"{name} has a zero point that wrapped around")
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < groups:
        raise QuantizationError(Category.ARTIFACT_CORRUPT, f"{name} has columns of groups that do not exist")
    integers = unpack_bits(tensors["qweight"], bits).t().contiguous()
    return Unpacked(integers, tensors["scales"].t().contiguous(), zeros, index)


def as_read(integers: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor) -> Tensor:
    """The weight [N, K] that a reader computes, in float16: it multiplies the integers with float16 scales."""
    return dequantize(integers, scales.half(), zeros, group_of).half()


def quantization_config(config: GptqConfig) -> dict[str, object]:
    """What config.json says under quantization_config, in the keys of AutoGPTQ."""
    return {
        "quant_method": "gptq",
        "bits": config.bits,
        "group_size": config.group_size,
        "damp_percent": config.damp_percent,
        "desc_act": config.desc_act,
        "static_groups": config.static_groups,
        "sym": config.sym,
        "true_sequential": config.true_sequential,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }
