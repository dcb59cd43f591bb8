"""One run from request to published artifact, read top-down.

check      model, texts and output: everything that can be wrong is found before work begins
quantize   layer by layer; finished shards are uploaded, and read back, in the background
evaluate   the stored artifact, streamed from where it lies, beside the input model
publish    goals, report, model card, and the manifest last
"""

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from quantization_api import ENGINE_VERSION
from quantization_api.failures import CATALOGUE, Category, QuantizationError
from quantization_api.manifest import (
    MODEL_CARD_NAME,
    MODEL_PREFIX,
    REPORT_PREFIX,
    InputRecord,
    Manifest,
    ModuleRecord,
)
from quantization_api.passes import GptqQuantizer
from quantization_api.pod import RunRequest, RunResult
from quantization_api.recipe import recipe_digest
from quantization_api.status import Artifact
from quantization_api.workflow import Workflow
from quantizer.calibration.tokens import TokenBatches, load_tokenizer, make_batches
from quantizer.goals import missed_goal
from quantizer.inputs import Model, check_revision, open_model, read_text, used_data_configs
from quantizer.local_identity import has_ended
from quantizer.machine import device_name
from quantizer.measure import Measured, measure
from quantizer.report.model_card import model_card
from quantizer.report.progress import Tracker
from quantizer.report.readers import not_read_by, readers_of
from quantizer.report.workload import head_share, plan
from quantizer.store.artifact import ArtifactWriter, Output, manifest_digest
from quantizer.store.claim import Claim
from quantizer.store.interface import ARTIFACT, OUTPUT
from quantizer.store.location import Location, open_store
from quantizer.store.source import StoreSource
from quantizer.streaming import QuantizeReport, check_sizes, gptq_config, quantize

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True)
class Setting:
    """Where and how a run computes; nothing here changes the result.

    scratch: directory of this run. checkpoint: called often; what it raises ends the run.
    """

    scratch: Path
    device: torch.device
    tracker: Tracker
    checkpoint: Callable[[], None]
    now: Callable[[], datetime]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the result for the operator, and the manifest with everything else."""

    result: RunResult
    manifest: Manifest


@dataclass(frozen=True)
class _Job:
    """A request whose inputs were found and checked."""

    request: RunRequest
    parameters: GptqQuantizer
    model: Model
    tokens: dict[str, TokenBatches]
    recipe: str


def run(request: RunRequest, setting: Setting) -> Outcome:
    """Computes what the request asks for, or finds it done.

    Raises:
        QuantizationError: with the category of what went wrong; nothing is published then.
    """
    tracker = setting.tracker
    with tracker.stage("check"):
        job = _check(request, setting)
        destination = Location.parse(request.output.uri)
        output = Output(open_store(destination, OUTPUT, request.storage), job.recipe)
        if output.manifest is not None and request.reuse == "Allowed" and output.whole:
            logger.info("an artifact of this recipe is already at %s", output.store.uri)
            tracker.finish()
            return _outcome(request, output.manifest, output.manifest_bytes, reused=True)
        tracker.layers(0, job.model.decoder.layers)
        tracker.plan(plan(job.model.decoder, job.parameters, job.tokens, request.workflow.metrics()))
    name = f"{request.namespace}/{request.name}"
    with Claim(output.store, request.uid, name, job.recipe, has_ended) as claim:
        writer = ArtifactWriter(
            output, claim, setting.checkpoint, lambda count: tracker.count_bytes("written artifact", count)
        )
        try:
            manifest, data = _compute(job, setting, destination, writer)
        except QuantizationError as error:
            if CATALOGUE[error.category].permanent:
                _discard(writer)
            raise
    tracker.finish()
    return _outcome(request, manifest, data, reused=False)


def _check(request: RunRequest, setting: Setting) -> _Job:
    workflow, tracker = request.workflow, setting.tracker
    parameters = _the_pass(workflow)
    _check_places(request)
    model = open_model(
        workflow.input_model.model_path,
        request.storage,
        lambda count: tracker.count_bytes("read model", count),
    )
    setting.checkpoint()
    check_revision(workflow.input_model, model)
    check_sizes(model.decoder, gptq_config(parameters))
    if sentence := not_read_by(parameters):
        logger.info("%s", sentence)
    tokenizer = load_tokenizer(model.source, setting.scratch)
    tokens: dict[str, TokenBatches] = {}
    revisions: dict[str, str] = {}
    for name in used_data_configs(workflow):
        setting.checkpoint()
        text = read_text(
            workflow.data_config(name),
            request.storage,
            lambda count: tracker.count_bytes("read data", count),
        )
        revisions[name] = text.revision
        try:
            tokens[name] = make_batches(
                text.rows,
                tokenizer,
                text.preprocess,
                vocabulary=model.decoder.vocabulary,
                max_positions=model.decoder.max_positions,
            )
        except QuantizationError as error:
            message = f"data config {name}: {error.message}"
            raise QuantizationError(error.category, message, error.hint) from error
    recipe = recipe_digest(workflow, model.revision, data_revisions=revisions)
    logger.info("recipe %s", recipe)
    return _Job(request, parameters, model, tokens, recipe)


def _the_pass(workflow: Workflow) -> GptqQuantizer:
    if len(workflow.passes) == 1 and isinstance(workflow.passes[0], GptqQuantizer):
        return workflow.passes[0]
    types = ", ".join(item.type for item in workflow.passes)
    raise QuantizationError(
        Category.INVALID_WORKFLOW, f"this release runs exactly one GptqQuantizer pass, not {types}"
    )


def _check_places(request: RunRequest) -> None:
    output = Location.parse(request.output.uri)
    if output.overlaps(Location.parse(request.workflow.input_model.model_path)):
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"output.uri {output.uri} and input_model.model_path lie in one another",
            "Choose an output.uri beside the model.",
        )


def _compute(
    job: _Job, setting: Setting, destination: Location, writer: ArtifactWriter
) -> tuple[Manifest, bytes]:
    tracker = setting.tracker
    with tracker.stage("quantize"):
        report = _quantize(job, setting, writer)
    with tracker.stage("evaluate"):
        artifact = StoreSource(
            open_store(destination.child(MODEL_PREFIX.rstrip("/")), ARTIFACT, job.request.storage),
            ARTIFACT,
            lambda count: tracker.count_bytes("read artifact", count),
        )
        measured = _measure(job, setting, artifact, report)
    with tracker.stage("publish"):
        from quantizer.report.document import report_files  # brings matplotlib, which only this stage needs

        _check_goals(job.request.workflow, measured)
        manifest = _manifest(job, setting, report, measured)
        seconds = {**tracker.seconds(), **{f"quantize: {k}": v for k, v in report.seconds.items()}}
        writer.put_bytes(MODEL_CARD_NAME, model_card(manifest, destination.uri).encode())
        for name, data in report_files(manifest, seconds).items():
            writer.put_bytes(f"{REPORT_PREFIX}{name}", data)
        return writer.finish(manifest)


def _quantize(job: _Job, setting: Setting, writer: ArtifactWriter) -> QuantizeReport:
    tracker = setting.tracker
    tracker.count_tokens("calibrate", job.tokens[job.parameters.data_config].tokens)

    def on_progress(_: str, done: int, total: int) -> None:
        setting.checkpoint()
        tracker.layers(done, total)
        tracker.advance(done, total)

    return quantize(
        job.model.source,
        job.tokens,
        job.parameters,
        lambda name, path: writer.put_file(f"{MODEL_PREFIX}{name}", path),
        on_progress,
        setting.device,
        setting.scratch,
    )


def _measure(job: _Job, setting: Setting, artifact: StoreSource, report: QuantizeReport) -> Measured:
    def on_progress(share: float) -> None:
        setting.checkpoint()
        setting.tracker.advance(share, 1)

    metrics = job.request.workflow.metrics()
    for name in dict.fromkeys(metric.data_config for metric in metrics if metric.data_config):
        setting.tracker.count_tokens("evaluate", job.tokens[name].tokens)
    return measure(
        metrics,
        job.model.source,
        artifact,
        job.tokens,
        job.tokens[job.parameters.data_config],
        gptq_config(job.parameters),
        (report.input_bytes, report.output_bytes),
        setting.device,
        setting.scratch,
        head_share(job.model.decoder),
        on_progress,
    )


def _check_goals(workflow: Workflow, measured: Measured) -> None:
    missed = []
    for metric, result in zip(workflow.metrics(), measured.metrics, strict=True):
        if result.output is not None and (sentence := missed_goal(metric, result.input, result.output)):
            missed.append(sentence)
    if missed:
        raise QuantizationError(Category.QUALITY_GOAL_MISSED, "; ".join(missed))


def _manifest(job: _Job, setting: Setting, report: QuantizeReport, measured: Measured) -> Manifest:
    versions = {name: version(name) for name in PACKAGES}
    return Manifest(
        recipe=job.recipe,
        engine_version=ENGINE_VERSION,
        created=setting.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        input=InputRecord(
            model_path=job.request.workflow.input_model.model_path,
            revision=job.model.revision,
            architecture=job.model.architecture,
            size_bytes=report.input_bytes,
        ),
        workflow=job.request.workflow.model_dump(mode="json", by_alias=True, exclude_none=True),
        passes=[item.type for item in job.request.workflow.passes],
        checkpoint_format=job.parameters.checkpoint_format,
        bits_per_weight=report.bits_per_weight,
        compression_ratio=report.input_bytes / report.output_bytes,
        readers=readers_of(job.parameters),
        metrics=[*measured.metrics, *measured.beside],
        modules=[
            ModuleRecord(
                name=module.name,
                shape=module.shape,
                error=module.error,
                error_rtn=module.error_rtn,
                damping=module.damp_percent,
            )
            for module in report.modules
        ],
        versions={
            "quantizer": ENGINE_VERSION,
            "python": platform.python_version(),
            **versions,
            "device": device_name(setting.device),
        },
        objects=[],
    )


def _outcome(request: RunRequest, manifest: Manifest, data: bytes, reused: bool) -> Outcome:
    asked = {metric.name for metric in request.workflow.metrics()}
    result = RunResult(
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
    return Outcome(result, manifest)


def _discard(writer: ArtifactWriter) -> None:
    """Removes what will not be published; a storage that is gone as well does not hide the first error."""
    try:
        writer.discard()
    except QuantizationError as error:
        logger.warning("what was written so far stays at the output: %s", error.message)
