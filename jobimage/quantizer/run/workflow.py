"""One run from request to published artifact, read top-down.

check      model, texts and output: everything that can be wrong is found before work begins
quantize   layer by layer; finished shards are staged, and read back, in the background
export     to ONNX, beside the checkpoint, where the workflow asks for it
evaluate   the staged artifact, streamed from where it lies, beside the input model
publish    goals, report, model card; then all of it takes its place, the manifest last
"""

from dataclasses import dataclass

from quantization_api.failures import QuantizationError
from quantization_api.manifest import MODEL_CARD_NAME, REPORT_PREFIX, Manifest
from quantization_api.pod import RunRequest, RunResult
from quantizer.progress.workload import plan
from quantizer.report.model_card import model_card
from quantizer.run import steps
from quantizer.run.checks import Job, Opened, check
from quantizer.run.finished_layers import forget
from quantizer.run.publishing import make_manifest, make_result
from quantizer.run.setting import Setting
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.interface import OUTPUT
from quantizer.store.location import Location, open_store
from quantizer.store.obtaining import Asked, already_there, obtain


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the result for the operator, and the manifest with everything else."""

    result: RunResult
    manifest: Manifest


def run(request: RunRequest, setting: Setting, opened: Opened | None = None, waits: bool = True) -> Outcome:
    """Computes what the request asks for, or finds it done.

    Args:
        opened: what earlier runs of this process with the same inputs have read.
        waits: whether to watch another process's claim on the output; if not, it is a conflict at once.

    Raises:
        QuantizationError: with the category of what went wrong; nothing is published then.
    """
    tracker = setting.tracker
    with tracker.stage("check"):
        job = check(request, setting, opened)
        place = Location.parse(request.output.uri)
        store = open_store(place, OUTPUT, request.storage, setting.patience)
        name = f"{request.namespace}/{request.name}"
        asked = Asked(request.uid, name, job.recipe, request.reuse == "Allowed", setting.has_ended, waits)
        obtained = already_there(store, asked)
        if obtained is None:
            tracker.layers(0, job.model.layout.layers)
            metrics = request.workflow.metrics()
            tracker.plan(
                plan(
                    job.model.layout,
                    job.calibration,
                    job.tokens,
                    metrics,
                    job.builder is not None,
                    sum(asked.requests.tokens for asked in job.tasks.values()),
                    job.weight_pass.layer_pass.chooses,
                    job.weight_pass.layer_pass.follows_float,
                )
            )
    if obtained is None:
        obtained = obtain(
            store,
            asked,
            lambda writer: _compute(job, setting, writer),
            setting.stop_check,
            lambda count: tracker.count_bytes("written artifact", count),
        )
    tracker.finish()
    return Outcome(make_result(request, obtained.manifest, obtained.data, obtained.found), obtained.manifest)


def _compute(job: Job, setting: Setting, writer: ArtifactWriter) -> tuple[Manifest, bytes]:
    """Computes everything; where the model's bytes turn out to be in doubt, no layer that was made of them stays."""
    try:
        return _make(job, setting, writer)
    except QuantizationError:
        if job.model.source.doubtful:
            forget(writer.store, job.recipe)
        raise


def _make(job: Job, setting: Setting, writer: ArtifactWriter) -> tuple[Manifest, bytes]:
    tracker = setting.tracker
    with tracker.stage("quantize"):
        quantized = steps.quantize(job, setting, writer)
    artifact = steps.stored_model(job, setting, writer)
    exported = None
    if job.builder is not None:
        with tracker.stage("export"):
            exported = steps.export(job, job.builder, setting, writer, artifact)
    with tracker.stage("evaluate"):
        measured = steps.evaluate(job, setting, writer, artifact, quantized)
    setting.on_measured(measured.measurements)
    with tracker.stage("publish"):
        steps.check_goals(job.request.workflow, measured)
        manifest = make_manifest(job, setting, quantized, exported, measured)
        if setting.reports:
            describe(manifest, job.request.output.uri, writer)
        return writer.finish(manifest)


def describe(manifest: Manifest, uri: str, writer: ArtifactWriter) -> None:
    """Writes the model card and the report of an artifact that will lie at `uri`."""
    from quantizer.report import document, gallery  # bring matplotlib, which only this step needs

    pictures = gallery.pictures(manifest)
    card = model_card(manifest, uri, gallery.for_the_card(pictures))
    writer.put_bytes(MODEL_CARD_NAME, card.encode())
    for name, data in document.report_files(manifest, pictures).items():
        writer.put_bytes(f"{REPORT_PREFIX}{name}", data)
