"""The AWQ checkpoint format in AutoAWQ's four versions; awq_layouts.py says how each lies on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx
from quantizer.formats.awq_layouts import BITS, LAYOUTS, count_groups
from quantizer.formats.interface import (
    Outside,
    TensorShapes,
    WeightFormat,
    check_groups,
    require_natural_groups,
    require_symmetric,
)

GROUP_SIZES = {"gemm": (-1, 16, 32, 64, 128), "gemv": (64, 128), "gemv_fast": (128,), "marlin": (128,)}
"""What each version takes: gemm those that an independent reader does, the others what their kernels have."""
ZERO_POINTS = {"gemm": (True, False), "gemv": (True,), "gemv_fast": (True,), "marlin": (False,)}
"""Values of zero_point that each version takes."""
SIZES = {"gemm": (1, 8), "gemv": (8, 8), "gemv_fast": (64, 8), "marlin": (128, 256)}
"""What inputs and outputs must be multiples of: whole words, and for marlin what its kernel runs on."""


@dataclass(frozen=True)
class AwqFormat(WeightFormat):
    """The AWQ format in one of its versions. Raises ValueError for what the version cannot hold."""

    version: str = "gemm"
    """gemm, gemv, gemv_fast or marlin."""
    bits: int = 4
    group_size: int = 128
    zero_point: bool = True
    """Asymmetric grids. In gemm a symmetric grid has its zero points, all 8, in the file as well."""

    def __post_init__(self) -> None:
        if (
            self.bits != BITS
            or self.group_size not in GROUP_SIZES.get(self.version, ())
            or self.zero_point not in ZERO_POINTS[self.version]
        ):
            raise ValueError(f"AWQ has no such format: {self}")

    @property
    @override
    def tensors(self) -> tuple[str, ...]:
        return LAYOUTS[self.version].tensors

    @override
    def check_shape(self, name: str, rows: int, columns: int) -> None:
        """Refuses a group size that does not divide the inputs, and sizes that the version does not take."""
        check_groups(name, columns, self.group_size)
        or_gemm = "" if self.version == "gemm" else ", write version: gemm"
        for what, size, multiple in zip(
            ("inputs", "outputs"), (columns, rows), SIZES[self.version], strict=True
        ):
            if size % multiple:
                raise QuantizationError(
                    Category.MODEL_UNSUPPORTED,
                    f"{name} has {size} {what}; awq version {self.version} takes multiples of {multiple} only",
                    f"Name it in modules_to_not_convert{or_gemm}, or use a GptqQuantizer.",
                )

    @override
    def tensor_shapes(self, rows: int, columns: int, groups: int) -> TensorShapes:
        return LAYOUTS[self.version].tensor_shapes(rows, columns, columns // groups)

    @override
    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        groups = weight.scales.shape[1]
        if groups != count_groups(weight.integers.shape[1], self.group_size):
            raise ValueError(f"{groups} groups are not those of group_size {self.group_size}")
        require_natural_groups(weight, "awq")
        if not self.zero_point:
            require_symmetric(weight.zeros, self.bits, "awq")
        return LAYOUTS[self.version].pack(
            weight.integers.to(torch.uint8).contiguous(),
            weight.scales.to(torch.float16).contiguous(),
            weight.zeros.round().to(torch.int64).contiguous(),
        )

    @override
    def unpack(self, name: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """Refuses zero points outside the grid, or other than 8 where there should be none."""
        integers, scales, zeros = LAYOUTS[self.version].unpack(tensors, self.group_size)
        low, high = (0, 2**self.bits - 1) if self.zero_point else (8, 8)
        if zeros.numel() and not low <= int(zeros.min()) <= int(zeros.max()) <= high:
            raise QuantizationError(
                Category.ARTIFACT_CORRUPT, f"{name} has a zero point outside {low}..{high}"
            )
        groups = natural_g_idx(integers.shape[1], scales.shape[1], integers.device)
        return QuantizedWeight(integers, scales, zeros, groups)

    @override
    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """In float16 arithmetic."""
        return LAYOUTS[self.version].as_read(weight)

    @override
    def with_outside(self, config: dict[str, object], outside: Outside) -> dict[str, object]:
        names = config["modules_to_not_convert"] or []
        assert isinstance(names, list)
        return {**config, "modules_to_not_convert": [*names, *outside.modules]}

    @override
    def quantization_config(self, not_converted: Sequence[str] = ()) -> dict[str, object]:
        """The keys of AutoAWQ."""
        return {
            "quant_method": "awq",
            "version": self.version,
            "bits": self.bits,
            "group_size": self.group_size,
            "zero_point": self.zero_point,
            "modules_to_not_convert": list(not_converted) or None,
        }
