"""The native engine, as the pod calls it: it reads, quantizes and writes layer by layer, all counted as `quantize`."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from runner_protocol import Clock, serve

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.machine import return_freed_memory, use_whole_vectors
from quantizer.passes.making import weight_pass
from quantizer.passes.streaming import quantize
from quantizer.passes.weight_pass import WeightParameters


def parameters(request: dict[str, Any]) -> WeightParameters:
    """The pass of the contract."""
    if request["method"] == "gptq":
        return GptqQuantizer(
            type="GptqQuantizer",
            data_config="text",
            bits=request["bits"],
            group_size=request["group_size"],
            sym=request["sym"],
            damp_percent=request["damp_percent"],
            true_sequential=request["true_sequential"],
            calibration_dtype=request["calibration_dtype"],
            refine=request["refine"],
        )
    return AutoAWQQuantizer(
        type="AutoAWQQuantizer",
        data_config="text",
        w_bit=request["bits"],
        q_group_size=request["group_size"],
        zero_point=not request["sym"],
    )


def run(request: dict[str, Any], clock: Clock) -> None:
    """One request."""
    return_freed_memory()
    use_whole_vectors()
    source = DirectorySource(Path(request["model"]))
    with clock.stage("load"):  # imports the model's code, as loading a model does in the other engines
        DecoderModel(DecoderLayout.open(source), torch.device("meta"))
    tokens = torch.load(request["tokens"], weights_only=True)
    output = Path(request["output"])

    def keep(name: str, path: Path) -> None:
        shutil.copyfile(path, output / name)

    with tempfile.TemporaryDirectory(dir=output.parent) as scratch, clock.stage("quantize"):
        quantize(
            DecoderLayout.open(source),
            TokenBatches(tuple(tokens)),
            weight_pass(parameters(request)).layer_pass,
            keep,
            lambda *_: None,
            torch.device(request["device"]),
            Path(scratch),
        )


serve("quantization-operator", run)
