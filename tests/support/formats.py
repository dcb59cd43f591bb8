"""A tiny checkpoint in any on-disk format, rounded to nearest, and the float model that it must equal."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.support.engine import save_tiny
from tests.support.quantized_models import save_tokenizer
from torch import Tensor

from quantizer.algorithms.grid import GridRule
from quantizer.algorithms.quantized_weight import QuantizedWeight, natural_g_idx, round_to_nearest
from quantizer.formats.interface import WeightFormat

HEAD = "lm_head"


def random_linear(
    rows: int, columns: int, groups: int, bits: int, seed: int, *, symmetric: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random integers [N, K], scales and zeros [N, G] (never 0) and groups that lie one after another."""
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, 2**bits, (rows, columns), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(rows, groups, generator=generator) * 0.1 + 1e-4).half()
    zeros = torch.randint(1, 2**bits, (rows, groups), generator=generator).to(torch.int16)
    if symmetric:
        zeros.fill_(2 ** (bits - 1))
    return integers, scales, zeros, natural_g_idx(columns, groups)


@dataclass(frozen=True)
class Saved:
    """A checkpoint's model as it was (plain), and with the weights that a reader computes (as_read).

    codes: integers [N, K] and zero points [N, G] of the linears that were rounded.
    """

    plain: torch.nn.Module
    as_read: torch.nn.Module
    codes: dict[str, tuple[Tensor, Tensor]]


def save_quantized(
    target: Path,
    written: WeightFormat,
    rule: GridRule,
    group_size: int,
    *,
    act_order: bool = False,
    not_converted: tuple[str, ...] = (),
    exact: bool = False,
    **changes: object,
) -> Saved:
    """Writes a tiny Llama in a format, with a tokenizer; its weights are float16's, so that no reader changes them.

    act_order shuffles which columns share a group, as act-order with dynamic groups does. exact leaves the
    weights that a reader computes unrounded: float32 arithmetic on the float16 scales.
    """
    settings = {"initializer_range": 0.15, **changes}
    plain, as_read = (save_tiny(target, **settings) for _ in range(2))
    for parameter in (*plain.parameters(), *as_read.parameters()):
        parameter.data = parameter.data.half().float()
    save_tokenizer(target)
    tensors = dict(as_read.state_dict())
    codes: dict[str, tuple[Tensor, Tensor]] = {}
    generator = torch.Generator().manual_seed(1)
    for name, module in as_read.named_modules():
        if not isinstance(module, torch.nn.Linear) or name in (HEAD, *not_converted):
            continue
        rows, columns = module.weight.shape
        written.check_shape(name, rows, columns)
        width = columns if group_size == -1 else group_size
        order = torch.randperm(columns, generator=generator) if act_order else torch.arange(columns)
        ordered = round_to_nearest(module.weight.detach()[:, order], width, rule)
        back = torch.argsort(order)
        quantized = QuantizedWeight(
            ordered.integers[:, back].contiguous(), ordered.scales, ordered.zeros, ordered.g_idx[back]
        )
        codes[name] = (quantized.integers, quantized.zeros.to(torch.int16))
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{part}": tensor for part, tensor in written.pack(quantized).items()}
        if exact:
            module.weight.data = replace(quantized, scales=quantized.scales.half()).dequantized()
        else:
            module.weight.data = written.as_read(quantized).float()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = written.quantization_config((*not_converted, HEAD))
    (target / "config.json").write_text(json.dumps(config))
    return Saved(plain, as_read, codes)


def compute_in_half(model: torch.nn.Module, not_converted: tuple[str, ...] = ()) -> None:
    """Makes every quantized linear multiply in float16, as the plain AWQ kernel of gptqmodel does.

    The product is the same call on the same layout: float16 sums differ from one kernel to the next.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name not in (HEAD, *not_converted):
            transposed = module.weight.detach().half().t().contiguous()
            module.forward = partial(_multiply_in_half, transposed)  # type: ignore[method-assign]


def _multiply_in_half(transposed: Tensor, inputs: Tensor) -> Tensor:
    flat = inputs.reshape(-1, inputs.shape[-1]).half()
    return torch.matmul(flat, transposed).reshape(*inputs.shape[:-1], -1).to(inputs.dtype)


def logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Logits in float32."""
    with torch.inference_mode():
        return model(tokens).logits  # type: ignore[no-any-return]
