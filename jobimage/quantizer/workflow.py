"""One run from request to published artifact, read top-down.

check      model, texts and output: everything that can be wrong is found before work begins
quantize   layer by layer; finished shards are uploaded, and read back, in the background
export     to ONNX, beside the checkpoint, where the workflow asks for it
evaluate   the stored artifact, streamed from where it lies, beside the input model
publish    goals, report, model card, and the manifest last
"""

import logging
from dataclasses import dataclass

from quantization_api.failures import CATALOGUE, QuantizationError
from quantization_api.manifest import MODEL_CARD_NAME, REPORT_PREFIX, Manifest
from quantization_api.pod import RunRequest, RunResult
from quantizer import steps
from quantizer.job import Job, Setting, check
from quantizer.local_identity import has_ended
from quantizer.publishing import make_manifest, make_result
from quantizer.report.model_card import model_card
from quantizer.report.workload import plan
from quantizer.store.artifact import ArtifactWriter, Output
from quantizer.store.claim import Claim
from quantizer.store.interface import OUTPUT
from quantizer.store.location import Location, open_store

logger = logging.getLogger(__name__)


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
        output = Output(open_store(Location.parse(request.output.uri), OUTPUT, request.storage), job.recipe)
        if output.manifest is not None and request.reuse == "Allowed" and output.whole:
            logger.info("an artifact of this recipe is already at %s", output.store.uri)
            tracker.finish()
            return _outcome(request, output.manifest, output.manifest_bytes, reused=True)
        tracker.layers(0, job.model.decoder.layers)
        metrics = request.workflow.metrics()
        tracker.plan(plan(job.model.decoder, job.calibration, job.tokens, metrics, job.builder is not None))
    name = f"{request.namespace}/{request.name}"
    with Claim(output.store, request.uid, name, job.recipe, has_ended) as claim:
        writer = ArtifactWriter(
            output, claim, setting.checkpoint, lambda count: tracker.count_bytes("written artifact", count)
        )
        try:
            manifest, data = _compute(job, setting, writer)
        except QuantizationError as error:
            if CATALOGUE[error.category].permanent:
                _discard(writer)
            raise
    tracker.finish()
    return _outcome(request, manifest, data, reused=False)


def _compute(job: Job, setting: Setting, writer: ArtifactWriter) -> tuple[Manifest, bytes]:
    tracker = setting.tracker
    with tracker.stage("quantize"):
        quantized = steps.quantize(job, setting, writer)
    artifact = steps.stored_model(job, setting)
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


def _outcome(request: RunRequest, manifest: Manifest, data: bytes, reused: bool) -> Outcome:
    return Outcome(make_result(request, manifest, data, reused), manifest)


def _discard(writer: ArtifactWriter) -> None:
    """Removes what will not be published; a storage that is gone as well does not hide the first error."""
    try:
        writer.discard()
    except QuantizationError as error:
        logger.warning("what was written so far stays at the output: %s", error.message)
