"""Loads quantized checkpoints with transformers, gptqmodel and compressed-tensors; run in those packages' environment.

Usage: python format_reader.py REQUEST.pt RESULT.pt

REQUEST.pt holds {checkpoints: [{directory, loader}], tokens [sequences, tokens], plain: bool}. RESULT.pt gets for
each checkpoint {logits [sequences, tokens, vocabulary], linears: {name: {integers [N, K], zeros [N, G]}}}, or the
name and text of the error with which it was refused. Loaders:

    transformers   from_pretrained, with optimum and gptqmodel, or with compressed-tensors
    dequantized    the same, compressed-tensors dequantized while it is loaded
    gptqmodel      gptqmodel's own, which knows each architecture

Models run in float32 and on plain torch kernels: the kernels that gptqmodel prefers on a CPU compute in bfloat16,
whose logits differ by tenths. The plain kernel of AWQ multiplies in float16, and compressed-tensors makes its
weights in the type of the model; with `plain` the packages make weights in float16, as in use, and linears multiply
in float32.

Integers and zero points are the ones that the package itself unpacks: with scales of one and the other part zero,
its dequantized weight is the integers, or minus the zero points. A checkpoint that is dequantized while it is
loaded has none left; its weights are in `weights` {name: [N, K]} instead.
"""

import gc
import json
import os
import sys
from functools import partial
from pathlib import Path

os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AwqConfig,
    CompressedTensorsConfig,
    GPTQConfig,
)

REFUSALS = (
    ImportError,
    IndexError,  # of tensors that the reader left as memory had them
    KeyError,
    NameError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
BACKENDS = {"gptq": BACKEND.GPTQ_TORCH, "awq": BACKEND.AWQ_TORCH}


def kernel_choice(method: str, loader: str) -> dict[str, object]:
    """Arguments that choose the plain torch kernel; everything else in them loses against the file."""
    if loader == "dequantized":
        return {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    if method == "gptq":
        return {"quantization_config": GPTQConfig(bits=4, backend="gptq_torch")}
    if method == "awq":
        return {"quantization_config": AwqConfig(backend="torch_awq")}
    return {}


def load(directory: str, loader: str, plain: bool) -> torch.nn.Module:
    """The model in float32."""
    config = json.loads((Path(directory) / "config.json").read_text())
    method = config["quantization_config"]["quant_method"]
    auto = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    if loader != "gptqmodel":
        dtype = (
            torch.float16 if plain and loader == "transformers" and "compressed" in method else torch.float32
        )
        model = auto.from_pretrained(
            directory, dtype=dtype, device_map="cpu", **kernel_choice(method, loader)
        )
        model.eval()
        if dtype is torch.float16:
            model(torch.zeros((1, 1), dtype=torch.int64))  # with its first input it makes its weights
            torch.nn.Module.float(model)
        return model
    # it takes no float32; what is stored in float16 loses nothing on the way
    loaded = GPTQModel.load(
        directory, device="cpu", dtype=torch.float16, backend=BACKENDS[method]
    ).model.eval()
    for module in loaded.modules():
        if not hasattr(module, "qweight"):
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, torch.nn.Parameter(parameter.float(), requires_grad=False))
    return loaded


def dequantized(module: torch.nn.Module) -> torch.Tensor:
    """The weight [K, N] of a quantized linear, as its package computes it."""
    if hasattr(module, "g_idx") and module.g_idx is not None:
        module._stream_reset_cache()
        module.clear_weight_cache()
        return type(module).dequantize_weight(module)
    return dequantize_gemm(module.qweight, module.qzeros, module.scales, module.bits, module.group_size)


def codes(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Integers and zero points of one quantized linear; the module is used up."""
    module.scales = torch.ones_like(module.scales)
    zeros = module.qzeros.clone()
    module.qzeros.zero_()
    integers = dequantized(module).t().round().to(torch.uint8)
    module.qweight.zero_()
    module.qzeros.copy_(zeros)
    zeros = -dequantized(module).t().round().to(torch.int16)
    groups, columns = module.scales.shape[0], zeros.shape[1]
    if getattr(module, "g_idx", None) is None:
        first = [group * columns // groups for group in range(groups)]
    else:
        first = [int((module.g_idx == group).nonzero()[0]) for group in range(groups)]
    return {"integers": integers, "zeros": zeros[:, first]}


def multiply(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    """A linear in float32."""
    return torch.nn.functional.linear(inputs, weight, bias)


def read(directory: str, loader: str, tokens: torch.Tensor, plain: bool) -> dict[str, object] | str:
    """What the packages make of one checkpoint."""
    try:
        model = load(directory, loader, plain)
        linears = {name: module for name, module in model.named_modules() if hasattr(module, "qweight")}
        for module in linears.values() if plain else ():
            bias = None if module.bias is None else module.bias.float()
            module.forward = partial(multiply, dequantized(module).t().float(), bias)
        with torch.inference_mode():
            logits = model(tokens, use_cache=False).logits
        weights = {
            name: module.weight.detach()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and not linears
        }
        unpacked = {name: codes(module) for name, module in linears.items()}
        return {"logits": logits, "linears": unpacked, "weights": weights}
    except REFUSALS as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Reads the request, writes the results."""
    gc.collect = lambda *_: 0  # the packages collect after each load, which takes longer than a tiny model
    request = torch.load(sys.argv[1], weights_only=True)
    checkpoints = request["checkpoints"]
    results: list[object] = [None] * len(checkpoints)
    # gptqmodel's own loader changes classes of transformers for good: what it loads comes last
    for number in sorted(
        range(len(checkpoints)), key=lambda number: checkpoints[number]["loader"] == "gptqmodel"
    ):
        one = checkpoints[number]
        results[number] = read(one["directory"], one["loader"], request["tokens"], request["plain"])
    torch.save(results, sys.argv[2])


main()
