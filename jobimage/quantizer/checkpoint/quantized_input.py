"""Which quantized checkpoints are read as the models that they stand for, and which of their tensors are encoded.

What config.json says under quantization_config makes a `Scheme`; everything that is not named here is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import shortened
from quantizer.boundary.reading import reading
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.encodings import FP4_PAIR_BYTES, Encoding, Mxfp4, ScaledFp8
from quantizer.checkpoint.reader import DAMAGED, FLOAT_CHECKPOINT, TensorInfo

Block = tuple[int, int]

INSTEAD = (
    f"{FLOAT_CHECKPOINT} Of quantized ones those in FP8 (quant_method fp8 or fbgemm_fp8, or compressed-tensors in "
    "float-quantized) and in mxfp4 are read."
)
USUAL_BLOCK = [128, 128]
"""Where quant_method fp8 says no weight_block_size, as in transformers."""
FP8_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)
EXPONENT_TYPES = (torch.float8_e8m0fnu, torch.uint8)
OF_ACTIVATIONS = re.compile(r"(^|[._])(input|activation|output|[qkv]|kv|prob)_scale(_ub)?$")
"""Names of scales that say how activations or the cache are rounded; the weights do not depend on them."""


class Scheme(Protocol):
    """How a checkpoint is quantized."""

    @property
    def method(self) -> str:
        """In words."""
        ...

    def find(self, tensors: Mapping[str, TensorInfo]) -> dict[str, Encoding]:
        """The tensors of a checkpoint that are encoded, by the names of what they stand for.

        Raises:
            QuantizationError: ModelUnsupported for one that is not as the config says.
        """
        ...


@dataclass(frozen=True)
class Fp8Scheme:
    """Weights in FP8: one scale for all, for each row, or for each block."""

    method: str
    suffixes: tuple[str, ...]
    """What the scales of a weight are called: its name, and one of these."""
    blocks: tuple[Block, ...] = ()
    scale_types: tuple[torch.dtype, ...] = FLOAT_TYPES
    rounds_first: bool = False

    def find(self, tensors: Mapping[str, TensorInfo]) -> dict[str, Encoding]:
        """See Scheme."""
        return {
            name: self._encoding(info, tensors) for name, info in tensors.items() if info.dtype in FP8_TYPES
        }

    def _encoding(self, numbers: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Encoding:
        names = [numbers.name + suffix for suffix in self.suffixes]
        found = next((tensors[name] for name in names if name in tensors), None)
        if found is None:
            raise _lacking(names[0], numbers.name)
        _check_type(found, self.scale_types)
        for block in (*_plain_blocks(numbers.shape), *self.blocks):
            grid = tuple(-(-size // step) for size, step in zip(numbers.shape, block, strict=False))
            if len(numbers.shape) == len(block) and found.shape in _spellings(grid):
                scales = TensorInfo(found.name, found.dtype, grid, found.file, found.start, found.length)
                return ScaledFp8(numbers, scales, block, self.rounds_first)
        raise _unfitting(numbers, found)


@dataclass(frozen=True)
class Mxfp4Scheme:
    """Weights of experts in MXFP4, as gpt-oss has them: X_blocks and X_scales stand for X."""

    method: str = "mxfp4"

    def find(self, tensors: Mapping[str, TensorInfo]) -> dict[str, Encoding]:
        """See Scheme."""
        stems = [name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")]
        return {stem: self._encoding(stem, tensors) for stem in stems}

    def _encoding(self, stem: str, tensors: Mapping[str, TensorInfo]) -> Encoding:
        blocks, scales = tensors[f"{stem}_blocks"], tensors.get(f"{stem}_scales")
        if scales is None:
            raise _lacking(f"{stem}_scales", blocks.name)
        for info in (blocks, scales):
            _check_type(info, (torch.uint8,))
        if len(blocks.shape) != 4 or blocks.shape != (*scales.shape, FP4_PAIR_BYTES):
            raise _unfitting(blocks, scales)
        return Mxfp4(blocks, scales)


def stored_scheme(quantization: object) -> Scheme:
    """The scheme of what config.json says under quantization_config.

    Raises:
        QuantizationError: ModelUnsupported, with its name, for one that is not read.
    """
    if not isinstance(quantization, dict):
        raise _not_read(f"quant_method {quantization}")
    said, method = quantization, quantization.get("quant_method", "unknown")
    with reading(Category.MODEL_UNSUPPORTED, f"the quantization_config of quant_method {method}", DAMAGED):
        if method == "mxfp4":
            return Mxfp4Scheme()
        if method == "fbgemm_fp8":
            return Fp8Scheme(method, ("_scale",))
        if method == "fp8":
            return _fine_grained(said)
        if method == "compressed-tensors":
            return _compressed_tensors(said)
    raise _not_read(f"quant_method {method}")


def _fine_grained(said: Mapping[str, Any]) -> Scheme:
    if said.get("expert_dtype", "fp8") != "fp8":
        raise _not_read(f"quant_method fp8 with expert_dtype {said['expert_dtype']}")
    size = said.get("weight_block_size", USUAL_BLOCK)
    blocks = () if size is None else (_block("weight_block_size", size),)
    return Fp8Scheme("fp8", ("_scale_inv", "_scale"), blocks, FLOAT_TYPES + EXPONENT_TYPES)


def _compressed_tensors(said: Mapping[str, Any]) -> Scheme:
    """FP8 weights of compressed-tensors, in one group of linears or in several."""
    method = "quant_method compressed-tensors"
    if said.get("transform_config"):
        raise _not_read(f"{method} with a transform_config")
    sparsity = (said.get("sparsity_config") or {}).get("format", "dense")
    if sparsity != "dense":
        raise _not_read(f"{method} in {sparsity}")
    blocks: list[Block] = []
    groups = said.get("config_groups") or {}
    for group in groups.values():
        layout, weights = group.get("format") or said.get("format"), group["weights"]
        if layout not in ("float-quantized", "naive-quantized") or not _is_fp8(weights):
            raise _not_read(f"{method} in {layout}")
        blocks += _group_blocks(weights)
    if not groups:
        raise _not_read(f"{method} in {said.get('format')}")
    named = "compressed-tensors in float-quantized"
    return Fp8Scheme(named, ("_scale",), tuple(dict.fromkeys(blocks)), rounds_first=True)


def _is_fp8(weights: Mapping[str, Any]) -> bool:
    return (weights.get("type"), weights.get("num_bits"), weights.get("symmetric", True)) == (
        "float",
        8,
        True,
    )


def _group_blocks(weights: Mapping[str, Any]) -> list[Block]:
    if weights.get("block_structure"):
        return [_block("block_structure", weights["block_structure"])]
    return [_block("group_size", (1, weights["group_size"]))] if weights.get("group_size") else []


def _block(field: str, size: Any) -> Block:
    """Rows and columns of a block, whole and positive."""
    rows, columns = size if isinstance(size, (list, tuple)) and len(size) == 2 else (0, 0)
    if type(rows) is not int or type(columns) is not int or min(rows, columns) < 1:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"config.json says {field} {shortened(repr(size), 100)}, which is not a number of rows and one of columns",
            DAMAGED,
        )
    return rows, columns


def _plain_blocks(shape: tuple[int, ...]) -> tuple[Block, ...]:
    """The whole weight, and each row."""
    return ((shape[0], shape[1]), (1, shape[1])) if len(shape) == 2 and min(shape) > 0 else ()


def _spellings(grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Shapes that scales of a grid may have: a single one, or one for each row, need not lie in a matrix."""
    one_column = ((grid[0],),) if grid[1] == 1 else ()
    return (grid, *one_column, *(((),) if grid == (1, 1) else ()))


def _check_type(info: TensorInfo, known: tuple[torch.dtype, ...]) -> None:
    if info.dtype not in known:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"{info.name} has dtype {word(info.dtype)}; known for it: {', '.join(map(word, known))}",
            FLOAT_CHECKPOINT,
        )


def _lacking(name: str, weight: str) -> QuantizationError:
    return QuantizationError(
        Category.MODEL_UNSUPPORTED,
        f"the checkpoint lacks {name}, without which {weight} cannot be read",
        "Copy the whole model again.",
    )


def _unfitting(numbers: TensorInfo, scales: TensorInfo) -> QuantizationError:
    return QuantizationError(
        Category.MODEL_UNSUPPORTED,
        f"{numbers.name} of {list(numbers.shape)} has scales of {list(scales.shape)}, which are not those that "
        "config.json describes",
        FLOAT_CHECKPOINT,
    )


def _not_read(what: str) -> QuantizationError:
    return QuantizationError(
        Category.MODEL_UNSUPPORTED, f"the model is already quantized ({shortened(what, 200)})", INSTEAD
    )
