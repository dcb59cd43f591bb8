"""Which format a checkpoint is in, from what its config.json says under quantization_config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import GridRule, GroupedGrid
from quantizer.formats.awq import AwqFormat
from quantizer.formats.compressed_tensors import LINEAR, CompressedTensorsFormat, scheme_of
from quantizer.formats.compressed_tensors import NAME as COMPRESSED_TENSORS
from quantizer.formats.gptq import NAMES, GptqFormat, schemes_of
from quantizer.formats.interface import HEAD, WeightFormat


@dataclass(frozen=True)
class StoredFormat:
    """A format, the grid of its linears, and the linears that are not in it."""

    format: WeightFormat
    grid: GroupedGrid
    left_out: frozenset[str] = frozenset()
    """Full names of the linears that are not packed."""
    head: bool = False
    """Whether the head is packed too."""
    only: tuple[str, ...] = ()
    """Names within a layer of the linears that are packed; empty: all of them."""

    def converts(self, name: str) -> bool:
        """Whether the linear of that full name is packed."""
        chosen = not self.only or any(name.endswith(f".{one}") for one in self.only)
        return chosen and name not in self.left_out


def stored_format(config: Mapping[str, Any]) -> StoredFormat:
    """The format of an artifact of this engine.

    Raises:
        QuantizationError: ArtifactCorrupt when config.json says something that this engine never writes.
    """
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if not isinstance(quantization, Mapping) or method not in READ:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT,
            f"config.json has quant_method {method}; it must be one of {', '.join(READ)}",
        )
    try:
        return READ[method](quantization)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT, f"config.json has no usable quantization_config: {error!r}"
        ) from error


def _gptq(said: Mapping[str, Any]) -> StoredFormat:
    versions = {name: version for version, name in NAMES.items()}
    layout = GptqFormat(
        bits=int(said["bits"]),
        group_size=int(said["group_size"]),
        sym=bool(said["sym"]),
        desc_act=bool(said["desc_act"]),
        version=versions[said.get("checkpoint_format", "gptq")],
        head=bool(said.get("lm_head")),
        schemes=schemes_of(said.get("dynamic") or {}),
    )
    only = tuple(name for names in said.get("modules_in_block_to_quantize") or () for name in names)
    return StoredFormat(
        layout, _grid(layout.bits, layout.sym, layout.group_size), head=layout.head, only=only
    )


def _awq(said: Mapping[str, Any]) -> StoredFormat:
    layout = AwqFormat(said["version"], int(said["bits"]), int(said["group_size"]), bool(said["zero_point"]))
    left_out = frozenset(said.get("modules_to_not_convert") or ())
    return StoredFormat(layout, _grid(layout.bits, not layout.zero_point, layout.group_size), left_out)


def _compressed_tensors(said: Mapping[str, Any]) -> StoredFormat:
    groups = list(said["config_groups"].values())
    first, *_ = [scheme_of(group["weights"]) for group in groups]
    (sym,) = {bool(group["weights"]["symmetric"]) for group in groups}
    named = [name for group in groups for name in group["targets"]]
    schemes = {
        str(name): scheme_of(group["weights"])
        for group in groups
        for name in group["targets"]
        if LINEAR not in named
    }
    head = HEAD in named
    layout = CompressedTensorsFormat(first.bits, first.group_size, sym, head=head, schemes=schemes)
    left_out = frozenset(said.get("ignore") or ())
    return StoredFormat(layout, _grid(first.bits, sym, first.group_size), left_out, head)


def _grid(bits: int, sym: bool, group_size: int) -> GroupedGrid:
    return GroupedGrid(GridRule(bits, sym), group_size)


READ: dict[str, Callable[[Mapping[str, Any]], StoredFormat]] = {
    "gptq": _gptq,
    "awq": _awq,
    COMPRESSED_TENSORS: _compressed_tensors,
}
