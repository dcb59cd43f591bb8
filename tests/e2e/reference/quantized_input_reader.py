"""Dequantizes checkpoints with transformers; run in an environment that has what it needs for them.

Usage: python quantized_input_reader.py FOLDERS.pt RESULTS.pt

FOLDERS.pt holds a list of folders with models in FP8 or MXFP4; RESULTS.pt gets for each the parameters of the
model that transformers makes of it, in the type that config.json names.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    CompressedTensorsConfig,
    FineGrainedFP8Config,
    Mxfp4Config,
)

CONFIGS = {
    "compressed-tensors": CompressedTensorsConfig,
    "fp8": FineGrainedFP8Config,
    "mxfp4": Mxfp4Config,
}


def parameters(folder: str) -> dict[str, torch.Tensor]:
    """Of the dequantized model."""
    method = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]["quant_method"]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", device_map="cpu", quantization_config=CONFIGS[method](dequantize=True)
    )
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def main() -> None:
    """Reads the folders, writes the results."""
    folders = torch.load(sys.argv[1], weights_only=True)
    torch.save([parameters(folder) for folder in folders], sys.argv[2])


main()
