"""What quantizing a model left, whoever computed it: the engine or a stock package."""

from dataclasses import dataclass, field

import torch

from quantization_api.manifest import LayerRanges, LinearReport


@dataclass
class QuantizeReport:
    """How a model was quantized, and the checkpoint that was written."""

    linears: list[LinearReport] = field(default_factory=list)
    """How well each was quantized."""
    ranges: list[LayerRanges] = field(default_factory=list)
    """Of each layer that was rotated."""
    bits_per_weight: float = 0.0
    """Bits of the packed tensors of the linears, by weight; where none is packed, of the linears as they are stored."""
    input_bytes: int = 0
    """Of the input's safetensors."""
    output_bytes: int = 0
    """Of those that were written."""
    own_head_bytes: int = 0
    """Of the head's weights, where the head had none of its own in the input."""
    calibration_tokens: int = 0
    calibration_dtype: torch.dtype | None = None
    """What activations were computed in; None: the package's own choice."""
    stored_in: str | None = None
    """Types that unquantized tensors were written in, in config.json's words; None: those that the package chose."""
    largest_activation: float | None = None
    """The largest absolute value between two decoder layers, over all tokens of the calibration; None: not seen."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: read, calibrate, solve, write; of a package: load, quantize, write."""
    files: list[str] = field(default_factory=list)
    """Names of the files of the checkpoint."""
    left_out: list[str] = field(default_factory=list)
    """Tensors of the input that are computed today and were not copied."""
    resumed_layers: int = 0
    """Layers that an earlier attempt had finished."""
    versions: dict[str, str] = field(default_factory=dict)
    """What the manifest keeps beside the engine's own versions."""
