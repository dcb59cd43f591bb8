"""ModelBuilder: a gptq (v1) or awq (gemm) checkpoint as an ONNX graph for onnxruntime-genai.

plan      what to build; everything that would go wrong, or be ignored, is refused here
build     onnxruntime-genai's own builder, offline, in a process of its own
check     every integer, scale and zero point against the checkpoint; then logits in onnxruntime

Unlike the passes this step is not streamed: the builder holds the whole quantized model, and its
embedding and head in fp32, more than once.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import ModelBuilder
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import read_config
from quantizer.export.builder import OnProgress, run_builder
from quantizer.export.graph import check_integers
from quantizer.export.logits import Agreement, compare_logits, require_agreement
from quantizer.export.plan import PROVIDERS, BuildPlan, check_model, plan_build
from quantizer.export.quantized import QuantizedCheckpoint
from quantizer.export.runtime import load_silently

CHECK_TOKENS = 256  # of a sequence
CHECK_SEQUENCES = 8
EXPECTED_FILES = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class OnnxReport:
    """What was made and how close it is."""

    plan: BuildPlan
    files: dict[str, int]
    """Bytes of each file in the target directory."""
    linears: int
    """How many were compared with the checkpoint, integer by integer."""
    agreement: Agreement
    builder_peak_bytes: int
    """The most memory that the builder's process held."""


def export(
    model_dir: Path,
    parameters: ModelBuilder,
    target: Path,
    scratch: Path,
    on_progress: OnProgress,
    *,
    tokens: Sequence[Tensor],
) -> OnnxReport:
    """Writes model.onnx, model.onnx.data, genai_config.json and the tokenizer into `target`.

    Args:
        model_dir: a checkpoint as the engine writes it, on this machine.
        target: made if needed; must be empty.
        tokens: sequences [tokens] int64 to compare logits on, such as the calibration's; the first
            CHECK_SEQUENCES, each up to CHECK_TOKENS tokens, are taken.
        on_progress: called with ("onnx", layers read, layers), ("onnx-integers", linears, linears in all)
            and ("onnx-logits", sequences, sequences in all).

    The builder loads the whole model: for the example (22 MB, graph 41 MB) its process held 0.95 GB, most
    of it Python's libraries; the disk needs room for the graph, where embedding and head are fp32.

    Raises:
        QuantizationError: InvalidWorkflow (see plan.REFUSALS), DataInsufficient without tokens,
            ArtifactConflict for a target that is not empty, NumericalFailure when the graph is not what
            the checkpoint says, ModelUnsupported (see plan.check_model); see builder.run_builder for the rest.
    """
    source = DirectorySource(model_dir)
    config = read_config(source)
    plan = plan_build(config, parameters, load_silently("onnxruntime").get_available_providers())
    checkpoint = QuantizedCheckpoint(source)
    check_model(checkpoint.model.layout)
    sequences = [sequence[:CHECK_TOKENS] for sequence in tokens[:CHECK_SEQUENCES] if len(sequence)]
    if not sequences:
        raise QuantizationError(Category.DATA_INSUFFICIENT, "there are no tokens to check the ONNX graph on")
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise QuantizationError(Category.ARTIFACT_CONFLICT, f"{target} is not empty")
    shown, cache = scratch / "onnx-input", scratch / "onnx-cache"
    try:
        show_checkpoint(model_dir, config, shown)
        peak = run_builder(shown, target, cache, plan, checkpoint.model.layout.layers, on_progress)
    finally:
        for folder in (shown, cache):
            shutil.rmtree(folder, ignore_errors=True)
    files = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    if missing := [name for name in EXPECTED_FILES if name not in files]:
        raise QuantizationError(Category.INTERNAL, f"the model builder wrote no {missing[0]}")
    total = len(checkpoint.linears)
    linears = check_integers(target, checkpoint, lambda done: on_progress("onnx-integers", done, total))
    agreement = compare_logits(
        target,
        checkpoint,
        sequences,
        PROVIDERS[plan.execution_provider],
        lambda done: on_progress("onnx-logits", done, len(sequences)),
    )
    require_agreement(agreement, plan.bound)
    return OnnxReport(plan, files, linears, agreement, peak)


def check_export(quantization: Mapping[str, object], parameters: ModelBuilder) -> None:
    """Refuses, before anything is computed, what `export` would refuse for a quantization_config; see there."""
    available = load_silently("onnxruntime").get_available_providers()
    plan_build({"quantization_config": quantization}, parameters, available)


def show_checkpoint(model_dir: Path, config: dict[str, Any], shown: Path) -> None:
    """The checkpoint as the builder shall see it: links to its files, and a config.json without desc_act.

    With desc_act the builder hands the group index to MatMulNBits even where groups lie one after another
    (static_groups), and onnxruntime then computes wrong values; QuantizedCheckpoint has checked that they do.
    """
    shown.mkdir(parents=True)
    for path in model_dir.iterdir():
        if path.is_file() and path.name != "config.json":
            (shown / path.name).symlink_to(path.resolve())
    quantization = {**config["quantization_config"], "desc_act": False}
    (shown / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
