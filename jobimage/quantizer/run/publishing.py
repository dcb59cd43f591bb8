"""What a run publishes: the manifest of the artifact, and the result that goes into status."""

import platform
from importlib.metadata import version

from quantization_api import ENGINE_VERSION
from quantization_api.manifest import MODEL_CARD_NAME, ExportRecord, InputRecord, Licence, Manifest
from quantization_api.pod import RunRequest, RunResult
from quantization_api.status import Artifact
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.side_files import side_files
from quantizer.checkpoint.source import read_whole
from quantizer.machine import device_name
from quantizer.report.front_matter import stated_licence
from quantizer.report.readers import readers, written_by
from quantizer.report.tensor_parallel import degrees
from quantizer.run.checks import Job
from quantizer.run.measure import Measured
from quantizer.run.setting import Setting
from quantizer.store.manifests import manifest_digest
from quantizer.store.source import StoreSource

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "numpy")
TASKS_PACKAGE = "lm-eval"
"""It judges by tasks."""
ONNX_READER = "onnxruntime, onnxruntime-genai (onnx/)"


def make_manifest(
    job: Job, setting: Setting, quantized: QuantizeReport, exported: ExportRecord | None, measured: Measured
) -> Manifest:
    """The manifest, without the list of objects, which the writer knows."""
    layout = job.model.layout
    written = written_by(
        job.weight_pass, layout.model_type, windowed=layout.windowed, linears=quantized.linears
    )
    packages = (*PACKAGES, TASKS_PACKAGE) if job.tasks else PACKAGES
    versions = {name: version(name) for name in packages} | quantized.versions
    return Manifest(
        recipe=job.recipe,
        owner=job.request.uid,
        engine_version=ENGINE_VERSION,
        created=setting.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        input=InputRecord(
            model_path=job.request.workflow.input_model.model_path,
            revision=job.model.revision,
            architecture=job.model.architecture,
            model_type=layout.model_type,
            dtype=layout.reader.dtypes,
            size_bytes=quantized.input_bytes,
            remarks=list(job.remarks),
            licence=_licence(job.model.source),
        ),
        workflow=job.request.workflow.model_dump(mode="json", by_alias=True, exclude_none=True),
        passes=[item.type for item in job.request.workflow.passes],
        checkpoint_format=written.layout,
        bits_per_weight=quantized.bits_per_weight,
        compression_ratio=quantized.input_bytes / quantized.output_bytes,
        dtype=quantized.stored_in,
        largest_activation=quantized.largest_activation,
        tensor_parallel=degrees(layout, written.occurring, head=written.head),
        own_head_bytes=quantized.own_head_bytes,
        readers=[*readers(written), *([ONNX_READER] if exported else [])],
        export=exported,
        metrics=[*measured.metrics, *measured.beside],
        modules=quantized.linears,
        ranges=quantized.ranges,
        seconds=_seconds(setting, quantized),
        versions={
            "quantizer": ENGINE_VERSION,
            "python": platform.python_version(),
            **versions,
            "device": device_name(setting.device),
        },
        objects=[],
    )


def _seconds(setting: Setting, quantized: QuantizeReport) -> dict[str, float]:
    """Time of the stages until now, and of the parts of quantize; to the millisecond."""
    parts = {f"quantize: {name}": spent for name, spent in quantized.seconds.items()}
    return {name: round(spent, 3) for name, spent in (setting.tracker.seconds() | parts).items()}


def _licence(source: StoreSource) -> Licence | None:
    """What the input says of its licence."""
    if MODEL_CARD_NAME not in source.files:
        return None
    return stated_licence(read_whole(source, MODEL_CARD_NAME), side_files(source))


def make_result(request: RunRequest, manifest: Manifest, data: bytes, reused: bool) -> RunResult:
    """The result: of the manifest, what status has room for."""
    asked = {metric.name for metric in request.workflow.metrics()}
    return RunResult(
        recipe=manifest.recipe,
        artifact=Artifact(
            uri=request.output.uri,
            manifest_digest=manifest_digest(data),
            size_bytes=manifest.model_bytes(),
            compression_ratio=round(manifest.compression_ratio, 4),
            bits_per_weight=round(manifest.bits_per_weight, 4),
            readers=manifest.readers,
            reused_from=request.output.uri if reused else None,
        ),
        metrics=[item for item in manifest.metrics if item.name in asked],
    )
