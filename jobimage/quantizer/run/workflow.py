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
from quantizer.run.checks import Job, Setting, check
from quantizer.run.finished_layers import forget
from quantizer.run.local_identity import has_ended
from quantizer.run.publishing import make_manifest, make_result
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.interface import OUTPUT
from quantizer.store.location import Location, open_store
from quantizer.store.obtaining import Asked, already_there, obtain


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the result for the operator, and the manifest with everything else."""

    result: RunResult
    manifest: Manifest


def run(request: RunRequest, setting: Setting) -> Outcome:
    """Computes what the request asks for, or finds it done.

    Raises:
        QuantizationError: with the category of what went wrong; nothing is published then.
    """
    tracker = setting.tracker
    with tracker.stage("check"):
        job = check(request, setting)
        place = Location.parse(request.output.uri)
        store = open_store(place, OUTPUT, request.storage, setting.patience)
        name = f"{request.namespace}/{request.name}"
        asked = Asked(request.uid, name, job.recipe, request.reuse == "Allowed", has_ended)
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
                    job.weight_pass.layer_pass.chooses,
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
        measured = steps.evaluate(job, setting, artifact, quantized)
    with tracker.stage("publish"):
        from quantizer.report.document import report_files  # brings matplotlib, which only this stage needs

        steps.check_goals(job.request.workflow, measured)
        manifest = make_manifest(job, setting, quantized, exported, measured)
        seconds = {**tracker.seconds(), **{f"quantize: {k}": v for k, v in quantized.seconds.items()}}
        writer.put_bytes(MODEL_CARD_NAME, model_card(manifest, job.request.output.uri).encode())
        for name, data in report_files(manifest, seconds).items():
            writer.put_bytes(f"{REPORT_PREFIX}{name}", data)
        return writer.finish(manifest)
