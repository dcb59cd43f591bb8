"""Loads quantized checkpoints with transformers and what it needs; run in those packages' environment.

Usage: python format_reader.py REQUEST.pt RESULT.pt

REQUEST.pt holds {directories: [..], tokens [sequences, tokens], dequantize: directories of compressed-tensors
checkpoints that are dequantized while they are loaded}; RESULT.pt gets for each directory the logits
[sequences, tokens, vocabulary], or the name and text of the error with which it was refused.

Models run in float32 and on plain torch kernels: the kernels that gptqmodel prefers on a CPU compute in
bfloat16, whose logits differ by tenths.
"""

import json
import os
import sys
from pathlib import Path

os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AwqConfig, CompressedTensorsConfig, GPTQConfig

REFUSALS = (ImportError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def kernel_choice(directory: str, dequantize: bool) -> dict[str, object]:
    """Arguments that choose the plain torch kernel; everything else in them loses against the file."""
    if dequantize:
        return {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    method = json.loads((Path(directory) / "config.json").read_text())["quantization_config"]["quant_method"]
    if method == "gptq":
        return {"quantization_config": GPTQConfig(bits=4, backend="gptq_torch")}
    if method == "awq":
        return {"quantization_config": AwqConfig(backend="torch_awq")}
    return {}


def read(directory: str, tokens: torch.Tensor, dequantize: bool) -> torch.Tensor | str:
    """What the packages make of one checkpoint."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, device_map="cpu", **kernel_choice(directory, dequantize)
        ).eval()
        with torch.inference_mode():
            return model(tokens).logits
    except REFUSALS as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Reads the request, writes the results."""
    request = torch.load(sys.argv[1], weights_only=True)
    results = [
        read(directory, request["tokens"], directory in request["dequantize"])
        for directory in request["directories"]
    ]
    torch.save(results, sys.argv[2])


main()
