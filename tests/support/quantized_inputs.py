"""Weights in FP8 and MXFP4 as checkpoints have them, and models in FP8."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max


def to_fp8(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A weight [N, K] in FP8 and its float32 scales, one for each block of rows and columns; the last may be cut."""
    rows, columns = (-(-size // step) for size, step in zip(weight.shape, block, strict=True))
    scales = torch.empty(rows, columns)
    quantized = torch.empty(weight.shape, dtype=FLOAT8)
    for row in range(rows):
        for column in range(columns):
            part = (
                slice(row * block[0], (row + 1) * block[0]),
                slice(column * block[1], (column + 1) * block[1]),
            )
            scales[row, column] = weight[part].float().abs().max().clamp(min=1e-12) / LARGEST
            quantized[part] = (weight[part].float() / scales[row, column]).to(FLOAT8)
    return quantized, scales


def random_mxfp4(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Every byte of 4-bit pairs, [*shape, 16], and scales around 1, [*shape]: both uint8."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(110, 140, shape, generator=generator, dtype=torch.uint8)


FP8_KINDS: dict[str, tuple[dict[str, Any], tuple[int, int], str]] = {
    "fp8, whole tensors": (
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        (1 << 30, 1 << 30),
        "_scale_inv",
    ),
    "fp8, blocks": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]},
        (16, 16),
        "_scale_inv",
    ),
    "fbgemm_fp8, rows": (
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        (1, 1 << 30),
        "_scale",
    ),
    "compressed-tensors, rows": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
                }
            },
            "ignore": ["lm_head"],
        },
        (1, 1 << 30),
        "_scale",
    ),
    "compressed-tensors, blocks": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 8,
                        "type": "float",
                        "strategy": "block",
                        "block_structure": [16, 16],
                        "symmetric": True,
                    },
                }
            },
            "ignore": ["lm_head"],
        },
        (16, 16),
        "_scale",
    ),
}
"""By what a test calls it: config.json's quantization_config, the block of a scale, what names scales."""


def store_in_fp8(folder: Path, kind: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Stores the linears of the layers of a float checkpoint of one file in FP8, the rest in `dtype`.

    Returns what they stand for in `dtype`, beside the tensors that stay.
    """
    quantization, block, suffix = FP8_KINDS[kind]
    tensors, meant = load_file(folder / "model.safetensors"), {}
    for name, value in list(tensors.items()):
        if not name.endswith("proj.weight"):
            tensors[name] = meant[name] = value.to(dtype)
            continue
        capped = (min(block[0], value.shape[0]), min(block[1], value.shape[1]))
        quantized, scales = to_fp8(value, capped)
        wide = scales.repeat_interleave(capped[0], 0).repeat_interleave(capped[1], 1)
        meant[name] = (quantized.float() * wide[: value.shape[0], : value.shape[1]]).to(dtype)
        tensors[name], tensors[name + suffix] = quantized, scales
        if quantization.get("activation_scheme") == "static":
            tensors[name], tensors[name + suffix] = quantized, scales.reshape(())
            tensors[name.removesuffix("weight") + "activation_scale"] = torch.tensor(0.5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": str(dtype).removeprefix("torch."), "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return meant
