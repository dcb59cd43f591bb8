"""The entry: a package runs on a local copy of the model and leaves an artifact in a directory."""

import time
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer
from quantizer.algorithms.finite import is_lost
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.extra import Extra
from quantizer.implementations import result
from quantizer.implementations.interface import OnProgress, QuantizedModel, package_version
from quantizer.implementations.local_model import load

MODULES = {
    "auto-gptq": "quantizer.implementations.auto_gptq",
    "autoawq": "quantizer.implementations.auto_awq",
}


class Package(Protocol):
    """The module that runs a package."""

    def dtype(self, parameters: Any, device: torch.device, stored: torch.dtype) -> torch.dtype:
        """What the package computes in. stored: what the model is stored in."""
        ...

    def quantize(
        self, model: Any, tokens: TokenBatches, parameters: Any, on_progress: OnProgress, device: torch.device
    ) -> QuantizedModel:
        """Runs the package on a model in memory, which is used up. Raises what the package raises."""
        ...


def quantize(
    model_dir: Path,
    tokens: TokenBatches,
    parameters: GptqQuantizer | AutoAWQQuantizer,
    target: Path,
    on_progress: OnProgress,
    device: torch.device,
    extra: Extra = Extra(),  # noqa: B008 - it cannot be changed
) -> QuantizeReport:
    """Quantizes the model in `model_dir` with the package that the pass names, and writes it into `target`.

    Args:
        model_dir: a copy of the model (local_model.copy_model); it is only read.
        tokens: the calibration sequences; the package gets exactly these.
        parameters: the pass, whose implementation is auto-gptq or autoawq.
        target: directory for safetensors, config.json, tokenizer and side files; made if missing.
        on_progress: called with ("quantize", layers done, layers in all) as the package starts each layer.
        device: cpu or cuda; the packages take the first GPU.
        extra: tensors that the model does not use.

    Raises:
        QuantizationError: InvalidWorkflow when this image lacks the package, or a GPU is to be left unused;
            ModelUnsupported; NumericalFailure; ScratchFull. Memory errors come out as they are:
            termination.categorize knows them.
    """
    if device.type == "cpu" and torch.cuda.is_available():
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"implementation {parameters.implementation} uses the GPU if there is one, even with --device cpu",
            "Use --device cuda, or hide the GPU with an empty CUDA_VISIBLE_DEVICES.",
        )
    report = QuantizeReport(calibration_tokens=tokens.tokens)
    started = time.perf_counter()
    try:
        quantized = _run(model_dir, tokens, parameters, on_progress, device, report)
    except (torch.linalg.LinAlgError, AssertionError) as error:  # type: ignore[attr-defined]
        # The packages check their numbers with assert; sizes and types were checked before they were called.
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"{parameters.implementation} stopped: {str(error).strip() or 'a value is not finite'}",
        ) from error
    report.seconds["quantize"] = time.perf_counter() - started - report.seconds["load"]
    report.linears = quantized.linears
    _check_finite(report)
    started = time.perf_counter()
    result.write(model_dir, quantized, target, report, extra)
    report.seconds["write"] = time.perf_counter() - started
    report.versions = package_version(parameters.implementation)
    return report


def _run(
    model_dir: Path,
    tokens: TokenBatches,
    parameters: GptqQuantizer | AutoAWQQuantizer,
    on_progress: OnProgress,
    device: torch.device,
    report: QuantizeReport,
) -> QuantizedModel:
    """Imports the package here: it is in one of the two images only, and takes seconds."""
    try:
        package: Package = import_module(MODULES[parameters.implementation])
    except ModuleNotFoundError as error:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"this image has no {error.name}, which implementation {parameters.implementation} needs",
            "Use the legacy image (leave spec.template.image out), or implementation native.",
        ) from error
    reader = SafetensorsReader(DirectorySource(model_dir))
    dtype = package.dtype(parameters, device, reader.dtype)
    check_held(reader, dtype)
    model = _load(model_dir, dtype, report)
    return package.quantize(model, tokens, parameters, on_progress, device)


def check_held(reader: SafetensorsReader, dtype: torch.dtype) -> None:
    """Raises NumericalFailure, naming it, for a matrix that is too small for the type that the package computes in."""
    for name, info in reader.tensors.items():
        if not info.dtype.is_floating_point or info.dtype == dtype or len(info.shape) < 2:
            continue
        value = reader.tensor(name)
        if is_lost(value, value.to(dtype)):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{name} has only values that are too small for {word(dtype)}, in which the package computes",
                "Write implementation: native, or input_model_dtype: fp32 of AutoAWQQuantizer.",
            )


def _load(model_dir: Path, dtype: torch.dtype, report: QuantizeReport) -> nn.Module:
    started = time.perf_counter()
    model = load(model_dir, dtype)
    report.seconds["load"] = time.perf_counter() - started
    return model


def _check_finite(report: QuantizeReport) -> None:
    for module in report.linears:
        if not (0 <= module.error < float("inf")):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"{module.name}: the error is not finite ({module.error})"
            )
