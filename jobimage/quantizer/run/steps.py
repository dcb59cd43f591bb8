"""The steps of a run: quantize, export, evaluate. Each takes a checked job and what was written so far."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MODEL_PREFIX, ONNX_PREFIX, ExportRecord, LinearReport, TrialRecord
from quantization_api.passes import ModelBuilder
from quantization_api.status import MetricResult
from quantization_api.workflow import Workflow
from quantizer.checkpoint.data_types import OF_MANIFESTS
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.side_files import json_file
from quantizer.checkpoint.writer import scratch_errors
from quantizer.evaluation.advice import what_to_try
from quantizer.evaluation.goals import missed_goal
from quantizer.evaluation.serving.software import NAMES, ONNXRUNTIME
from quantizer.implementations import package
from quantizer.implementations.local_model import copy_model
from quantizer.passes.interface import FinishedLayer
from quantizer.passes.streaming import quantize as stream
from quantizer.progress.lines import Errors
from quantizer.report.few_tokens import few_tokens
from quantizer.run import serving
from quantizer.run.checks import Job, readable
from quantizer.run.finished_layers import FinishedLayers
from quantizer.run.measure import Measured, measure
from quantizer.run.setting import Setting
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.interface import ARTIFACT
from quantizer.store.location import Location, open_store
from quantizer.store.source import StoreSource

logger = logging.getLogger(__name__)

STAGED = replace(ARTIFACT, missing=Category.ARTIFACT_CORRUPT)
"""This run stored it a moment ago: whatever is missing was lost."""


def quantize(job: Job, setting: Setting, writer: ArtifactWriter) -> QuantizeReport:
    """Rounds the weights and hands the checkpoint to the writer."""
    setting.tracker.count_tokens("calibrate", job.calibration.tokens)
    quantized = (
        _native(job, setting, writer) if job.weight_pass.package is None else _package(job, setting, writer)
    )
    if sentence := few_tokens(quantized.linears):
        logger.warning("%s", sentence)
    return quantized


def _native(job: Job, setting: Setting, writer: ArtifactWriter) -> QuantizeReport:
    source = job.model.source
    computed: list[LinearReport] = []  # of the layer that was finished last

    def on_layer(index: int, layer: FinishedLayer) -> None:
        computed.extend(layer.linears)
        setting.on_layer(index, layer)

    with FinishedLayers(
        writer.store,
        job.recipe,
        setting.scratch,
        writer.check,
        source,
        on_kept=setting.tracker.keep,
        on_layer=on_layer,
    ) as finished:
        if setting.tracker.kept:
            setting.tracker.going_on()

        def on_progress(_: str, done: int, total: int) -> None:
            _tell(setting, done, total)
            if computed:
                setting.tracker.layer_done(Errors.of(computed))
                computed.clear()

        report = stream(
            job.model.layout,
            job.calibration,
            job.weight_pass.layer_pass,
            lambda name, path: writer.put_file(f"{MODEL_PREFIX}{name}", path),
            on_progress,
            setting.device,
            setting.scratch,
            finished=finished,
        )
    source.prove(job.model.layout.reader.files)
    if report.resumed_layers:
        logger.info("took over %d layers from an earlier attempt", report.resumed_layers)
    calibrated_in = next(word for word, dtype in OF_MANIFESTS.items() if dtype is report.calibration_dtype)
    report.versions["calibration_dtype"] = calibrated_in
    return report


def _package(job: Job, setting: Setting, writer: ArtifactWriter) -> QuantizeReport:
    """The stock package on a copy of the whole model; it can neither stream nor resume."""
    model_dir = copy_model(job.model.source, job.model.layout.reader.files, setting.scratch / "model")
    if job.model.layout.unties:  # the package's transformers would leave the head out
        (model_dir / "config.json").write_bytes(json_file(job.model.layout.config_of_copy()))
    target = setting.scratch / "artifact"

    def on_progress(_: str, done: int, total: int) -> None:
        _tell(setting, done, total)
        if done:
            setting.tracker.layer_done()

    report = package.quantize(
        model_dir,
        job.calibration,
        job.weight_pass.parameters,
        target,
        on_progress,
        setting.device,
        job.model.layout.check_tensors(),
    )
    for name in report.files:
        writer.put_file(f"{MODEL_PREFIX}{name}", target / name)
    return report


def _tell(setting: Setting, done: int, total: int) -> None:
    setting.stop_check()
    setting.tracker.layers(done, total)
    setting.tracker.advance(done, total)


def stored_model(job: Job, setting: Setting, writer: ArtifactWriter) -> StoreSource:
    """The checkpoint where it lies now."""
    return StoreSource(
        open_store(_place(job, writer), STAGED, job.request.storage, setting.patience),
        STAGED,
        lambda count: setting.tracker.count_bytes("read artifact", count),
    )


def _place(job: Job, writer: ArtifactWriter) -> Location:
    """Where the checkpoint lies now."""
    return Location.parse(job.request.output.uri).child(writer.staged(MODEL_PREFIX).rstrip("/"))


def export(
    job: Job, builder: ModelBuilder, setting: Setting, writer: ArtifactWriter, artifact: StoreSource
) -> ExportRecord:
    """Makes the ONNX graph beside the checkpoint."""
    from quantizer.export import model_builder  # brings onnx, which only this step needs

    checkpoint, target = setting.scratch / "checkpoint", setting.scratch / "onnx"
    _fetch(artifact, checkpoint, setting)
    parts = {"onnx": 0.0, "onnx-integers": 0.8, "onnx-logits": 0.9}

    def on_progress(stage: str, done: int, total: int) -> None:
        setting.stop_check()
        following = min((start for start in parts.values() if start > parts[stage]), default=1.0)
        setting.tracker.advance(parts[stage] + (following - parts[stage]) * done / max(1, total), 1)

    report = model_builder.export(
        checkpoint, builder, target, setting.scratch, on_progress, tokens=job.calibration.sequences
    )
    for name in report.files:
        writer.put_file(f"{ONNX_PREFIX}{name}", target / name)
    return ExportRecord(
        precision=report.plan.precision,
        execution_provider=report.plan.execution_provider,
        accuracy_level=report.plan.accuracy_level,
        size_bytes=sum(report.files.values()),
        kl_divergence=report.agreement.kl_divergence,
        top1_agreement=report.agreement.top1_agreement,
        tokens=report.agreement.tokens,
    )


def _fetch(artifact: StoreSource, folder: Path, setting: Setting) -> None:
    """Copies the checkpoint to scratch: the builder needs files."""
    folder.mkdir()
    block = 16 * 1024 * 1024
    for name, size in artifact.list().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_errors(), path.open("wb") as file:
            for start in range(0, size, block):
                setting.stop_check()
                file.write(artifact.read(name, start, min(block, size - start)))


def evaluate(
    job: Job, setting: Setting, writer: ArtifactWriter, artifact: StoreSource, quantized: QuantizeReport
) -> Measured:
    """The metrics of the workflow, on the stored checkpoint."""

    def on_progress(share: float) -> None:
        setting.stop_check()
        setting.tracker.advance(share, 1)

    metrics = job.request.workflow.metrics()
    for name in dict.fromkeys(metric.data_config for metric in metrics if metric.data_config):
        setting.tracker.count_tokens("evaluate", job.tokens[name].tokens)
    for asked in job.tasks.values():
        setting.tracker.count_tokens("evaluate", asked.requests.tokens)
    served = _serve(job, setting, writer, artifact)
    return measure(job, setting, readable(artifact), quantized, served, on_progress)


def _serve(
    job: Job, setting: Setting, writer: ArtifactWriter, artifact: StoreSource
) -> dict[str, MetricResult]:
    """Speed and memory, in the software that serves the result."""
    if not job.software:
        return {}
    source, place = readable(artifact), _place(job, writer)
    weights = tuple(name for name in source.list() if name.endswith(".safetensors"))
    checkpoint = serving.Model.at(place, source, weights, as_stored=source is artifact)
    results = dict.fromkeys(NAMES, checkpoint)
    if job.builder is not None:
        on_cpu = job.builder.execution_provider != "cuda"
        results[ONNXRUNTIME] = serving.Model(source, (), setting.scratch / "onnx", on_cpu)
    return serving.measure(
        job.request.workflow.metrics(), job.software, job.served_input, results, setting.machine
    )


def check_goals(workflow: Workflow, measured: Measured, trials: Sequence[TrialRecord] = ()) -> None:
    """Raises QualityGoalMissed, naming every goal that was missed, by how much, and what to try next.

    trials: points of a search that have ended; what they show comes before general advice.
    """
    found = zip(workflow.metrics(), measured.measurements, strict=True)
    missed = [miss for metric, one in found if (miss := missed_goal(metric, one))]
    if missed:
        raise QuantizationError(
            Category.QUALITY_GOAL_MISSED,
            "; ".join(miss.said for miss in missed),
            what_to_try(workflow, missed, trials),
        )
