"""Quantized linears of a QuaRot artifact that carries its own code, as a WeightFormat.

modeling_quarot.QuarotLinear and modeling_quarot.pack describe the layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from quantizer.algorithms.grid import dequantize
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx
from quantizer.formats.interface import (
    TensorShapes,
    WeightFormat,
    check_groups,
    require_natural_groups,
    require_symmetric,
)
from quantizer.formats.quarot.modeling_quarot import pack, unpack, words

FULL = 16


@dataclass(frozen=True)
class QuarotFormat(WeightFormat):
    """The format of a QuaRot artifact's own code."""

    bits: int
    group_size: int = -1
    """-1: one group per row."""
    asym: bool = False
    scale_bits: int = FULL
    """16: float16; below: codes and one float32 unit."""

    @property
    @override
    def tensors(self) -> tuple[str, ...]:
        scales = ("scales",) if self.scale_bits == FULL else ("scale_codes", "scale_unit")
        return ("qweight", *scales, *(("qzeros",) if self.asym else ()))

    @override
    def check_shape(self, name: str, rows: int, columns: int) -> None:
        check_groups(name, columns, self.group_size)

    @override
    def tensor_shapes(self, rows: int, columns: int, groups: int) -> TensorShapes:
        shapes: TensorShapes = {
            "qweight": (torch.int32, (rows, words(columns, self.bits))),
            "scales": (torch.float16, (rows, groups)),
            "scale_codes": (torch.uint8, (rows, groups)),
            "scale_unit": (torch.float32, (1,)),
            "qzeros": (torch.uint8, (rows, groups)),
        }
        return {name: shapes[name] for name in self.tensors}

    @override
    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """Scales of few bits are multiples of a unit, and the largest has the largest code."""
        require_natural_groups(weight, "quarot")
        tensors = {"qweight": pack(weight.integers, self.bits).contiguous()}
        if self.scale_bits == FULL:
            tensors["scales"] = weight.scales.half().contiguous()
        else:
            unit = weight.scales.amax() / (2**self.scale_bits - 1)
            tensors["scale_codes"] = torch.round(weight.scales / unit).to(torch.uint8).contiguous()
            tensors["scale_unit"] = unit.reshape(1).float()
        if self.asym:
            tensors["qzeros"] = weight.zeros.to(torch.uint8).contiguous()
        else:
            require_symmetric(weight.zeros, self.bits, "quarot")
        return tensors

    @override
    def unpack(self, name: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """With one group a row, whatever fills its last word comes as further columns."""
        if self.scale_bits == FULL:
            scales = tensors["scales"]
        else:
            scales = tensors["scale_codes"].float() * tensors["scale_unit"]
        groups = scales.shape[1]
        columns = tensors["qweight"].shape[1] * 32 // self.bits // groups * groups
        if self.group_size != -1:
            columns = groups * self.group_size
        zeros = tensors["qzeros"] if self.asym else torch.full_like(scales, 2 ** (self.bits - 1))
        integers = unpack(tensors["qweight"], self.bits, columns).to(torch.uint8)
        return QuantizedWeight(integers, scales, zeros.to(torch.int16), natural_g_idx(columns, groups))

    @override
    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """The artifact's code computes in the type of the activations; here float32."""
        scales = weight.scales.half() if self.scale_bits == FULL else weight.scales
        return dequantize(weight.integers, scales, weight.zeros, weight.g_idx)

    @override
    def quantization_config(self, not_converted: Sequence[str] = ()) -> dict[str, object]:
        """Nothing: config.json says it under "quarot", for the code that the artifact carries."""
        return {}
