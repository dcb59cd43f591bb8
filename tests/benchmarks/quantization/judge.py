"""One judge for every engine's result: the files it wrote, read back by formats/reading.py and run in float32.

So a figure depends on what lies on disk and on nothing else of the engine.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quantization_api.failures import QuantizationError
from quantizer.algorithms.grid import GridRule
from quantizer.algorithms.quantized_weight import round_to_nearest
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.figures import Evaluation
from quantizer.evaluation.streamed import compare, evaluate
from quantizer.evaluation.views import FloatView, RtnBaseline, RtnView
from quantizer.formats.gptq import GptqFormat

SCALES = (".scales", ".weight_scale")
OTHER_SCALES = (torch.float32, torch.bfloat16)
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Verdict:
    """What the judge found; reason: why a result could not be read, then there are no figures.

    files: bytes of the safetensors; layers: of their tensors in decoder layers, where everything is quantized.
    """

    perplexity: float = 0.0
    kl_divergence: float = 0.0
    max_abs_dlogit: float = 0.0
    files: int = 0
    layers: int = 0
    reason: str = ""


def mean(verdicts: Sequence[Verdict]) -> Verdict:
    """The mean over rounds, of the largest difference the largest; the first reason where there is one."""
    for verdict in verdicts:
        if verdict.reason:
            return verdict
    if not verdicts:
        return Verdict()
    return Verdict(
        fmean(verdict.perplexity for verdict in verdicts),
        fmean(verdict.kl_divergence for verdict in verdicts),
        max(verdict.max_abs_dlogit for verdict in verdicts),
        verdicts[-1].files,
        verdicts[-1].layers,
    )


def judge(model: Path, output: Path, held_out: torch.Tensor, device: torch.device, scratch: Path) -> Verdict:
    """Measures a result beside the model that it was made from."""
    tokens = TokenBatches(tuple(held_out))
    try:
        candidate = DirectorySource(readable(model, output, scratch / "readable"))
        found = evaluate(
            DecoderLayout.open(DirectorySource(model)), candidate, tokens, device, lambda *_: None, scratch
        )
    except QuantizationError as error:
        return Verdict(reason=f"the result cannot be read: {error.message}")
    files = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    return _verdict(found, files, layer_bytes(output))


def judge_plain_rounding(
    model: Path,
    bits: int,
    group_size: int,
    sym: bool,
    held_out: torch.Tensor,
    device: torch.device,
    scratch: Path,
) -> Verdict:
    """RTN: every linear rounded to nearest on the same grid."""
    baseline = RtnBaseline(
        lambda _, rows: round_to_nearest(rows, group_size, GridRule(bits, sym)),
        GptqFormat(bits, group_size, sym),
        lambda _: True,
    )
    tokens = TokenBatches(tuple(held_out))
    source = DirectorySource(model)
    rounded = RtnView(DecoderLayout.open(source), baseline, device)
    found = compare(FloatView(DecoderLayout.open(source), device), rounded, tokens, lambda *_: None, scratch)
    return _verdict(found, 0, 0)


def judge_float(model: Path, held_out: torch.Tensor, device: torch.device, scratch: Path) -> float:
    """Perplexity of the model itself."""
    tokens = TokenBatches(tuple(held_out))
    return evaluate(
        DecoderLayout.open(DirectorySource(model)), None, tokens, device, lambda *_: None, scratch
    ).perplexity


def readable(model: Path, output: Path, target: Path) -> Path:
    """The result under the names of a checkpoint: auto-gptq names its file after bits and group size.

    config.json is the model's with the result's quantization_config: transformers 4 writes other words than 5.
    Scales in float32, as two engines write them when they compute in it, or in bfloat16, as gptqmodel's AWQ, become
    the float16 of the formats.
    """
    target.mkdir(parents=True)
    for path in output.glob("*.safetensors.index.json"):
        (target / path.name).symlink_to(path.resolve())
    for path in output.glob("*.safetensors"):
        single = not any((output / name).exists() for name in WEIGHTS)
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if name.endswith(SCALES) and tensor.dtype in OTHER_SCALES:
                tensors[name] = tensor.half()
        save_file(tensors, target / (WEIGHTS[0] if single else path.name))
    config = json.loads((model / "config.json").read_text())
    said = json.loads((output / "config.json").read_text())
    (target / "config.json").write_text(
        json.dumps(config | {"quantization_config": said.get("quantization_config")})
    )
    return target


def layer_bytes(output: Path) -> int:
    """Bytes of the tensors of decoder layers."""
    total = 0
    for path in output.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if ".layers." in name:
                    part = tensors.get_tensor(name)
                    total += part.nbytes
    return total


def _verdict(found: Evaluation, files: int, layers: int) -> Verdict:
    return Verdict(found.perplexity, found.kl_divergence, found.max_abs_dlogit, files, layers)
