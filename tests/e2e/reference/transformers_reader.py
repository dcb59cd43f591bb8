"""Loads GPTQ checkpoints with transformers, optimum and gptqmodel; run in those packages' environment.

Usage: python transformers_reader.py REQUEST.pt RESULT.pt

REQUEST.pt holds {directories: [..], tokens [sequences, tokens]}; RESULT.pt gets for each directory
{logits [sequences, tokens, vocabulary], linears: {name: {integers [N, K], zeros [N, G]}}}.

The model runs in float32 on gptqmodel's plain torch kernel. Left to itself on a CPU gptqmodel chooses a
kernel that computes in bfloat16, whose logits differ by tenths from everybody's. The integers and zero
points are the ones that the package itself unpacks: with scales of one and the other part zero, its
dequantized weight is the integers, or minus the zero points.
"""

import os
import sys

os.environ["GPTQMODEL_CPU_WORKERS"] = "2"

import torch
from transformers import AutoModelForCausalLM, GPTQConfig


def codes(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Integers and zero points of one quantized linear; the module is used up."""

    def dequantized() -> torch.Tensor:
        module._stream_reset_cache()
        module.clear_weight_cache()
        return type(module).dequantize_weight(module).t().round().to(torch.int16)

    module.scales = torch.ones_like(module.scales)
    kept = module.qweight.clone(), module.qzeros.clone()
    module.qzeros.zero_()
    integers = dequantized()
    module.qweight.zero_()
    module.qzeros.copy_(kept[1])
    zeros = -dequantized()
    first = [int((module.g_idx == group).nonzero()[0]) for group in range(module.scales.shape[0])]
    return {"integers": integers.to(torch.uint8), "zeros": zeros[:, first]}


def read(directory: str, tokens: torch.Tensor) -> dict[str, object]:
    """What the packages make of one checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        device_map="cpu",
        quantization_config=GPTQConfig(bits=4, backend="gptq_torch"),  # the file's own bits win
    ).eval()
    with torch.inference_mode():
        logits = model(tokens).logits
        linears = {
            name: codes(module) for name, module in model.named_modules() if hasattr(module, "qweight")
        }
    return {"logits": logits, "linears": linears}


def main() -> None:
    """Reads the request, writes the results."""
    request = torch.load(sys.argv[1], weights_only=True)
    torch.save([read(directory, request["tokens"]) for directory in request["directories"]], sys.argv[2])


main()
