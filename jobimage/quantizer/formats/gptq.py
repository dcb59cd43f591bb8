"""The GPTQ checkpoint format, versions 1 (`checkpoint_format: gptq`) and 2 (`gptq_v2`).

A linear with K inputs, N outputs, b bits and G groups:

    tensor   dtype  shape          content
    qweight  int32  [K*b/32, N]    integers, packed along K (see bit_packing)
    qzeros   int32  [G, N*b/32]    zero point, packed along N; version 1 stores it MINUS ONE
    scales   fp16   [G, N]
    g_idx    int32  [K]            group of each input column
    bias     -      [N]            only where the linear has one; unchanged

    weight[n, k] = (q[n, k] - zero[n, g]) * scale[n, g]   with g = g_idx[k]

Linears may differ in bits and group size: `dynamic` in the config then has a pattern for each that is not as the rest,
gptqmodel's way to say so. vLLM asks by the name of the linear that it makes of several, so the pattern has that too.

A zero point of 0 would be stored in version 1 as -1 and wrap around: readers disagree about what it means
then, so it is never written (grid.fit_grid does not make one) and refused when it is read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import Scheme, dequantize
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.checkpoint.side_files import quantize_config
from quantizer.formats.chosen import ChosenFormat
from quantizer.formats.interface import HEAD, Outside, TensorShapes, check_groups
from quantizer.kernels.bit_packing import period, unpack_bits
from quantizer.kernels.packing import pack_bits

TENSORS = ("qweight", "qzeros", "scales", "g_idx")
FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""Last part of a linear's name -> that of the linear which servers compute it in."""
NAMES = {1: "gptq", 2: "gptq_v2"}  # values of checkpoint_format; a file without the key is version 1


WIDTHS = (8, 4, 3, 2)
"""Bits that the format packs."""


@dataclass(frozen=True)
class GptqFormat(ChosenFormat):
    """The GPTQ format in one of its versions; bits and version decide the bytes, the rest goes into config.json."""

    damp_percent: float = 0.01
    static_groups: bool = False
    true_sequential: bool = False
    version: int = 1
    """A key of NAMES."""
    inside_layer_modules: tuple[tuple[str, ...], ...] | None = None
    """The linears that are quantized, the same in every decoder layer, by their names within it; None: all of them."""
    names_linears: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.version not in NAMES:
            raise ValueError(f"version is {self.version}; it must be 1 or 2")

    @property
    @override
    def tensors(self) -> tuple[str, ...]:
        return TENSORS

    @override
    def check_shape(self, name: str, rows: int, columns: int) -> None:
        """Refuses a group size that does not divide the inputs, and sizes that do not fill whole words."""
        check_groups(name, columns, self.group_size)
        count, _ = period(self.bits)
        for what, size in (("inputs", columns), ("outputs", rows)):
            if size % count:
                raise QuantizationError(
                    Category.MODEL_UNSUPPORTED,
                    f"{name} has {size} {what}; the gptq format packs {self.bits}-bit weights in "
                    f"multiples of {count} only",
                    _other_width(rows, columns),
                )

    @override
    def tensor_shapes(self, rows: int, columns: int, groups: int) -> TensorShapes:
        return {
            "qweight": (torch.int32, (columns * self.bits // 32, rows)),
            "qzeros": (torch.int32, (groups, rows * self.bits // 32)),
            "scales": (torch.float16, (groups, rows)),
            "g_idx": (torch.int32, (columns,)),
        }

    @override
    def pack(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        stored = weight.zeros.round().to(torch.int64) - self._offset
        if stored.numel() and int(stored.min()) < 0:
            raise ValueError("a zero point of 0 cannot be stored: it would wrap")
        return {
            "qweight": pack_bits(weight.integers.t(), self.bits).contiguous(),
            "qzeros": pack_bits(stored, self.bits).t().contiguous(),
            "scales": weight.scales.t().to(torch.float16).contiguous(),
            "g_idx": weight.g_idx.to(torch.int32, copy=True),  # linears that were solved together share it
        }

    @override
    def joined(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        index = parts[0]["g_idx"]
        for part in parts:
            del part["g_idx"]
        whole = {kind: torch.cat([part.pop(kind) for part in parts], dim=1) for kind in list(parts[0])}
        return {**whole, "g_idx": index}

    @override
    def unpack(self, name: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """Refuses a wrapped zero point and a group that does not exist."""
        zeros = unpack_bits(tensors["qzeros"].t(), self.bits).to(torch.int16) + self._offset
        groups = tensors["scales"].shape[0]
        index = tensors["g_idx"]
        if zeros.numel() and int(zeros.max()) > 2**self.bits - 1:
            raise QuantizationError(Category.ARTIFACT_CORRUPT, f"{name} has a zero point that wrapped around")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < groups:
            raise QuantizationError(
                Category.ARTIFACT_CORRUPT, f"{name} has columns of groups that do not exist"
            )
        integers = unpack_bits(tensors["qweight"], self.bits).t().contiguous()
        return QuantizedWeight(integers, tensors["scales"].t().contiguous(), zeros, index)

    @override
    def as_read(self, weight: QuantizedWeight) -> Tensor:
        """In float16, the integers times float16 scales."""
        return dequantize(weight.integers, weight.scales.half(), weight.zeros, weight.g_idx).half()

    @override
    def quantization_config(self, not_converted: Sequence[str] = ()) -> dict[str, object]:
        """The keys of AutoGPTQ, and the one for modules of transformers and vLLM.

        Raises:
            QuantizationError: InvalidWorkflow when an exception is more than the head, which has a key of its
                own, and what inside_layer_modules leaves out: no key that all readers know can say it.
        """
        chosen = [name for names in self.inside_layer_modules or () for name in names]
        for path in not_converted:
            left_out = chosen and not any(path.endswith(f".{name}") for name in chosen)
            if path != HEAD and not left_out:
                raise QuantizationError(
                    Category.INVALID_WORKFLOW,
                    f"the gptq format cannot leave out {path} alone; write checkpoint_format: compressed-tensors, "
                    "or leave it out of inside_layer_modules, and so of every layer",
                )
        config: dict[str, object] = {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group_size,
            "damp_percent": self.damp_percent,
            "desc_act": self.desc_act,
            "static_groups": self.static_groups,
            "sym": self.sym,
            "true_sequential": self.true_sequential,
            "lm_head": self.head,
            "checkpoint_format": NAMES[self.version],
        }
        if self.schemes:
            config["dynamic"] = dynamic(self.schemes, Scheme(self.bits, self.group_size))
        if self.inside_layer_modules is not None:
            config["modules_in_block_to_quantize"] = [list(names) for names in self.inside_layer_modules]
        return config

    @override
    def with_outside(self, config: dict[str, object], outside: Outside) -> dict[str, object]:
        """By the list of layers, which optimum asks for, and as patterns of what is left out, gptqmodel's way."""
        left_out: dict[str, object] = {_left_out(name): {} for name in outside.modules}
        own = config.get("dynamic") or {}
        assert isinstance(own, dict)
        return {**config, "block_name_to_quantize": outside.layers, "dynamic": {**left_out, **own}}

    @override
    def side_files(self, quantization_config: Mapping[str, object]) -> dict[str, bytes]:
        """What AutoGPTQ reads in place of config.json."""
        return {"quantize_config.json": quantize_config(quantization_config)}

    @property
    def _offset(self) -> int:
        return 1 if self.version == 1 else 0


def dynamic(schemes: Mapping[str, Scheme], rest: Scheme) -> dict[str, dict[str, int]]:
    """The patterns of the linears that are not as the rest, with their own bits and group size."""
    return {
        _pattern(name): {"bits": scheme.bits, "group_size": scheme.group_size}
        for name, scheme in schemes.items()
        if scheme != rest
    }


def schemes_of(said: Mapping[str, Mapping[str, Any]]) -> dict[str, Scheme]:
    """The inverse of dynamic, without what is left out; ValueError for a pattern that it does not write."""
    found: dict[str, Scheme] = {}
    for pattern, own in said.items():
        if pattern.startswith(LEFT_OUT):
            continue
        parts = WRITTEN.fullmatch(pattern)
        if parts is None:
            raise ValueError(f"dynamic has the pattern {pattern}")
        name = parts["owner"].replace("\\.", ".") + parts["linear"]
        found[name] = Scheme(int(own["bits"]), int(own["group_size"]))
    return found


WRITTEN = re.compile(r"\+:\^(?P<owner>(?:\w+\\\.)*)(?:\(\?:)?(?P<linear>\w+)(?:\|\w+\))?\$")


LEFT_OUT = "-:"
OPTIONAL = "model."
"""Servers call a module by its name with this before it, or without."""


def _left_out(name: str) -> str:
    """Matches a module and all that is in it."""
    before = f"(?:{re.escape(OPTIONAL)})?" if name.startswith(OPTIONAL) else ""
    return f"{LEFT_OUT}^{before}{re.escape(name.removeprefix(OPTIONAL))}(?:\\.|$)"


def _pattern(name: str) -> str:
    """Matches a linear, and what servers fuse it into, by full name."""
    owner, dot, linear = name.rpartition(".")
    last = f"(?:{linear}|{FUSED[linear]})" if linear in FUSED else linear
    return "+:^" + f"{owner}{dot}".replace(".", "\\.") + f"{last}$"


def _other_width(rows: int, columns: int) -> str:
    """What to do about a linear [rows, columns] that does not fill whole words."""
    fitting = [str(bits) for bits in WIDTHS if not (rows % period(bits)[0] or columns % period(bits)[0])]
    instead = "a GptqQuantizer with checkpoint_format: compressed-tensors, which pads"
    return f"Use bits that fit it ({', '.join(fitting)}), or {instead}." if fitting else f"Use {instead}."
