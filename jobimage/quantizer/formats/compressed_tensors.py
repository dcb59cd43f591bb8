"""The compressed-tensors checkpoint format, `pack-quantized`, as its library writes it since release 0.18.

A linear with K inputs, N outputs, b bits and G groups:

    tensor             dtype  shape                 content
    weight_packed      int32  [N, ceil(K*b/32)]     integers, packed along K as one stream of bits
    weight_scale       fp16   [N, G]
    weight_zero_point  int32  [ceil(N*b/32), G]     zero points, packed along N; asymmetric grids only
    weight_shape       int64  [2]                   N, K

The library thinks in signed integers, s = q - 2^(b-1), and stores s + 2^(b-1): that is q, and likewise for
the zero points. The last word of a row is filled up with zero bits.

Releases before 0.18 put 3 bits ten to a word and left two bits empty; 2, 4 and 8 bits are the same in both.

Linears may differ in bits and group size: each scheme is then a config group, whose targets are its linears by name.

There is no group index: the library has given it up. Act-order needs grids that were fixed beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import Scheme, dequantize
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx
from quantizer.formats.chosen import ChosenFormat
from quantizer.formats.interface import (
    HEAD,
    Outside,
    TensorShapes,
    check_groups,
    require_natural_groups,
    require_symmetric,
)
from quantizer.kernels.bit_packing import period, unpack_bits
from quantizer.kernels.packing import pack_bits

NAME = "compressed-tensors"
LINEAR = "Linear"
"""The target that stands for every linear."""


def words_for(count: int, bits: int) -> int:
    """Words that hold `count` values."""
    return -(-count * bits // 32)


def pack_stream(values: Tensor, bits: int) -> Tensor:
    """Packs [n, m] integers below 2^bits along dimension 0 into int32 [ceil(n*bits/32), m], for any n."""
    count = values.shape[0]
    missing = -count % period(bits)[0]
    if missing:
        values = torch.nn.functional.pad(values, (0, 0, 0, missing))
    return pack_bits(values, bits)[: words_for(count, bits)]


def unpack_stream(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of pack_stream: uint8 [count, m]."""
    missing = -packed.shape[0] % period(bits)[1]
    if missing:
        packed = torch.nn.functional.pad(packed, (0, 0, 0, missing))
    return unpack_bits(packed, bits)[:count]


@dataclass(frozen=True)
class CompressedTensorsFormat(ChosenFormat):
    """The compressed-tensors format, `pack-quantized`.

    With desc_act groups lie one after another all the same: grids were fixed beforehand, or a row is one group.
    """

    names_routers: ClassVar[bool] = True

    @property
    @override
    def tensors(self) -> tuple[str, ...]:
        names = ("weight_packed", "weight_scale", "weight_shape")
        return names if self.sym else (*names, "weight_zero_point")

    @override
    def check_shape(self, name: str, rows: int, columns: int) -> None:
        check_groups(name, columns, self.group_size)

    @override
    def tensor_shapes(self, rows: int, columns: int, groups: int) -> TensorShapes:
        shapes: TensorShapes = {
            "weight_packed": (torch.int32, (rows, words_for(columns, self.bits))),
            "weight_scale": (torch.float16, (rows, groups)),
            "weight_shape": (torch.int64, (2,)),
            "weight_zero_point": (torch.int32, (words_for(rows, self.bits), groups)),
        }
        return {name: shapes[name] for name in self.tensors}

    @override
    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        require_natural_groups(weight, NAME)
        tensors = {
            "weight_packed": pack_stream(weight.integers.t(), self.bits).t().contiguous(),
            "weight_scale": weight.scales.to(torch.float16).contiguous(),
            "weight_shape": torch.tensor(weight.integers.shape, dtype=torch.int64),
        }
        if self.sym:
            require_symmetric(weight.zeros, self.bits, NAME)
        else:
            tensors["weight_zero_point"] = pack_stream(
                weight.zeros.round().to(torch.int64), self.bits
            ).contiguous()
        return tensors

    @override
    def joined(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        shapes = torch.stack([part.pop("weight_shape") for part in parts])
        whole = {kind: torch.cat([part.pop(kind) for part in parts]) for kind in list(parts[0])}
        return {**whole, "weight_shape": torch.stack([shapes[:, 0].sum(), shapes[0, 1]])}

    @override
    def unpack(self, name: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """Refuses a stored shape that is not that of the packed tensor."""
        packed, scales = tensors["weight_packed"], tensors["weight_scale"]
        rows, columns = (int(size) for size in tensors["weight_shape"])
        groups = scales.shape[1]
        if packed.shape != (rows, words_for(columns, self.bits)) or groups == 0 or columns % groups:
            raise QuantizationError(
                Category.ARTIFACT_CORRUPT, f"{name} has tensors that do not fit its weight_shape"
            )
        integers = unpack_stream(packed.t(), self.bits, columns).t().contiguous()
        if self.sym:
            zeros = torch.full_like(scales, 2 ** (self.bits - 1), dtype=torch.int16)
        else:
            zeros = unpack_stream(tensors["weight_zero_point"], self.bits, rows).to(torch.int16)
        return QuantizedWeight(integers, scales, zeros, natural_g_idx(columns, groups, packed.device))

    @override
    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """In float16, the type of the scales."""
        return dequantize(weight.integers, weight.scales.half(), weight.zeros, weight.g_idx).half()

    @override
    def with_outside(self, config: dict[str, object], outside: Outside) -> dict[str, object]:
        """Readers compare whole names: each linear is named."""
        names = config["ignore"]
        assert isinstance(names, list)
        return {**config, "ignore": list(dict.fromkeys([*names, *outside.linears]))}

    @override
    def quantization_config(self, not_converted: Sequence[str] = ()) -> dict[str, object]:
        """Where linears are alike every Linear is a target: a head that stays as it is must be among the exceptions.

        One that is packed is named all the same, since it is no Linear in vLLM.
        """
        everywhere = [LINEAR, HEAD] if self.head else [LINEAR]
        targets = targets_of(self.schemes) or {Scheme(self.bits, self.group_size): everywhere}
        exceptions = [*not_converted, *([] if self.head else [HEAD])]
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                f"group_{number}": {
                    "targets": names,
                    "weights": self._weights(scheme),
                    "input_activations": None,
                    "output_activations": None,
                }
                for number, (scheme, names) in enumerate(targets.items())
            },
            "ignore": list(dict.fromkeys(exceptions)),
            "kv_cache_scheme": None,
        }

    def _weights(self, scheme: Scheme) -> dict[str, object]:
        weights: dict[str, object] = {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": self.sym,
            "strategy": "channel" if scheme.group_size == -1 else "group",
            "group_size": None if scheme.group_size == -1 else scheme.group_size,
            "dynamic": False,
        }
        if self.desc_act:
            weights["actorder"] = "weight"
        return weights


def targets_of(schemes: Mapping[str, Scheme]) -> dict[Scheme, list[str]]:
    """The linears of each scheme, the fewest bits first."""
    order = sorted(set(schemes.values()), key=lambda scheme: (scheme.bits, scheme.group_size))
    return {wanted: [name for name, scheme in schemes.items() if scheme == wanted] for wanted in order}


def scheme_of(weights: Mapping[str, Any]) -> Scheme:
    """Bits and groups that the `weights` of a config group say."""
    size = -1 if weights["strategy"] == "channel" else int(weights["group_size"])
    return Scheme(int(weights["num_bits"]), size)
