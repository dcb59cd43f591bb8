"""Whether speed and memory can be measured of the result, decided before work begins."""

import shutil
from collections.abc import Iterable
from typing import Any

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.metrics import Metric
from quantization_api.passes import ModelBuilder
from quantization_api.workflow import Workflow
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.serving.figures import Shape
from quantizer.evaluation.serving.software import (
    METRICS,
    ONNXRUNTIME,
    Pythons,
    Result,
    choose,
    choose_for_input,
)
from quantizer.machine import available_memory
from quantizer.passes.weight_pass import WeightPass
from quantizer.report.readers import readers, written_by
from quantizer.run.serving import Machine, Model

LIBRARIES_BYTES = 1_500_000_000
"""What the libraries of a server take beside the model."""
SPARE = 1.2
MORE_MEMORY = "Raise spec.template.resources.limits.memory"


def check_servable(
    workflow: Workflow, chosen: WeightPass[Any], layout: DecoderLayout, model: Model, machine: Machine
) -> dict[str, str]:
    """What serves the result for each metric of speed or memory, by its name.

    Args:
        chosen: the pass that rounds weights. layout, model: of the input.

    Raises:
        QuantizationError: as choose_software and check_room; InvalidWorkflow for an input that is quantized already.
    """
    _check_input(workflow.metrics(), layout)
    written = written_by(chosen, layout.model_type, windowed=layout.windowed)
    is_graph = isinstance(workflow.passes[-1], ModelBuilder)
    result = Result(written, readers(written), machine.device.type == "cuda", is_graph)
    software = choose_software(workflow, result, machine.pythons)
    check_room(workflow.metrics(), layout, model, machine)
    return software


def _check_input(metrics: Iterable[Metric], layout: DecoderLayout) -> None:
    served = [metric.name for metric in metrics if metric.served]
    if served and layout.reader.method:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"{served[0]} is measured of the input model too, and one that is quantized already "
            f"({layout.reader.method}) is not served",
            f"Leave {METRICS} out: all other metrics compare with the weights that it stands for.",
        )


def choose_software(workflow: Workflow, result: Result, pythons: Pythons) -> dict[str, str]:
    """What serves the result for each metric of speed or memory, by its name.

    Raises:
        QuantizationError: InvalidWorkflow where nothing can, or not what was asked for; and for the memory that
            onnxruntime takes of a GPU, which it does not tell.
    """
    chosen = {
        metric.name: choose(metric.software, result, pythons)
        for metric in workflow.metrics()
        if metric.served
    }
    for software in dict.fromkeys(chosen.values()):
        choose_for_input(software, pythons)
    last = workflow.passes[-1]
    on_gpu = isinstance(last, ModelBuilder) and last.execution_provider == "cuda"
    for metric in workflow.metrics():
        if on_gpu and metric.type == "peak_memory" and chosen[metric.name] == ONNXRUNTIME:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{metric.name}: onnxruntime does not tell how much of a GPU's memory it takes",
                "Leave peak_memory out, or write software: transformers or vllm for it.",
            )
    return chosen


def check_room(metrics: Iterable[Metric], layout: DecoderLayout, model: Model, machine: Machine) -> None:
    """Raises before anything is computed: the model is served whole, unlike it is quantized.

    Raises:
        QuantizationError: InvalidWorkflow for more tokens than the model has positions; HostOutOfMemory,
            GpuOutOfMemory or ScratchFull where the model is too large for what there is.
    """
    served = [metric for metric in metrics if metric.served]
    if not served:
        return
    for metric in served:
        if Shape.of(metric).length > layout.max_positions:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{metric.name} is measured on {Shape.of(metric).length:,} tokens, and the model has "
                f"{layout.max_positions:,} positions",
                "Lower prompt_tokens or new_tokens.",
            )
    needed = int(SPARE * model.bytes)
    _require(
        Category.HOST_OUT_OF_MEMORY, needed + LIBRARIES_BYTES, available_memory(), "of memory", MORE_MEMORY
    )
    if machine.device.type == "cuda":
        free = torch.cuda.mem_get_info(machine.device)[0]
        _require(Category.GPU_OUT_OF_MEMORY, needed, free, "of the GPU's memory", "Ask for a larger GPU")
    if model.folder is None:
        free = shutil.disk_usage(machine.scratch).free
        _require(Category.SCRATCH_FULL, model.bytes, free, "on scratch", "Raise spec.template.scratchSize")


def _require(category: Category, needed: int, available: int, what: str, more: str) -> None:
    if needed <= available:
        return
    raise QuantizationError(
        category,
        f"{METRICS} are measured of the whole model, which needs {needed / 1e9:,.1f} GB {what}; there are "
        f"{available / 1e9:,.1f} GB",
        f"{more}, or leave these metrics out: all others are measured layer by layer.",
    )
