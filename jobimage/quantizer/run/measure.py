"""The metrics of a workflow, measured on the stored artifact, and what RTN would give."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quantization_api.metrics import Metric
from quantization_api.status import MetricResult
from quantizer.calibration.tokens import TokenBatches, probe_tokens
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import Source
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.figures import Evaluation
from quantizer.evaluation.measurement import Measurement
from quantizer.evaluation.own_dtype import run_in_own_dtype
from quantizer.evaluation.streamed import OnProgress, evaluate, evaluate_beside_rtn
from quantizer.evaluation.views import RtnBaseline
from quantizer.passes.written import schemes_of
from quantizer.progress.workload import head_share
from quantizer.report.quality import beside_name
from quantizer.run.checks import Job, readable
from quantizer.run.measure_tasks import TASK_MODELS, measure_tasks
from quantizer.run.setting import Setting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    metrics: list[MetricResult]
    """Those of the workflow, in its order."""
    measurements: list[Measurement]
    """The same, with what goals are judged by."""
    beside: list[MetricResult]
    """Further figures for the report: RTN's."""


def measure(
    job: Job,
    setting: Setting,
    artifact: Source,
    quantized: QuantizeReport,
    served: Mapping[str, MetricResult],
    on_progress: Callable[[float], None],
) -> Measured:
    """Measures every metric; models run once for each data config, not once for each metric.

    Before that, and if no metric needs text, one sequence is run in the artifact's own data type: every artifact is
    loaded and run as its readers do before it is published.

    Args:
        artifact: the stored checkpoint.
        quantized: how it was made.
        served: what was measured in the software that serves the result, by name of the metric.
        on_progress: called with the share done.

    Raises:
        QuantizationError: ArtifactCorrupt when what was stored does not load, NumericalFailure.
    """
    layout, device, scratch = _readable_layout(job), setting.device, setting.scratch
    metrics, modules = job.request.workflow.metrics(), job.weight_pass.modules
    baseline = RtnBaseline.of(job.weight_pass.layer_pass.with_schemes(schemes_of(quantized.linears)))
    sizes = (quantized.input_bytes, quantized.output_bytes)
    names = list(dict.fromkeys(metric.data_config for metric in metrics if metric.data_config))
    runs = len(names) + (TASK_MODELS if job.tasks else 0)
    progress = _Progress(max(1, runs), head_share(layout), on_progress)
    _probe(job, setting, artifact, progress.step if not runs else lambda *_: on_progress(0.0))
    ours: dict[str, Evaluation] = {}
    rtn: dict[str, Evaluation] = {}
    for name in names:
        text = job.tokens[name]
        known = None if setting.walked is None else (setting.walked, name)
        if baseline is None:
            ours[name] = evaluate(layout, artifact, text, device, progress.step, scratch, modules, known)
        else:
            ours[name], rtn[name] = evaluate_beside_rtn(
                layout, artifact, baseline, text, device, progress.step, scratch, modules, known
            )
        progress.next()
    tasks = measure_tasks(job, setting, layout, artifact, progress.step, progress.next)
    measurements = [
        _served(served[metric.name])
        if metric.served
        else tasks.get(metric.name) or _measurement(metric, ours, sizes)
        for metric in metrics
    ]
    results = [
        served[metric.name] if metric.served else found.result(metric.name)
        for metric, found in zip(metrics, measurements, strict=True)
    ]
    _say_what_is_alone(metrics, results)
    return Measured(results, measurements, [] if baseline is None else _beside(metrics, rtn, sizes))


def _beside(
    metrics: Sequence[Metric], rtn: Mapping[str, Evaluation], sizes: tuple[int, int]
) -> list[MetricResult]:
    """RTN's figures for every metric of a text."""
    plain = {
        metric.name: _measurement(metric, rtn, sizes) for metric in metrics if metric.data_config is not None
    }
    return [
        MetricResult(name=beside_name(name), input=found.before, output=found.after)
        for name, found in plain.items()
    ]


def _probe(job: Job, setting: Setting, artifact: Source, on_progress: OnProgress) -> None:
    """One sequence in the artifact's own data type."""
    layout, chosen = job.model.layout, job.weight_pass
    sequences = job.calibration.sequences or probe_tokens(layout.vocabulary, layout.max_positions).sequences
    run_in_own_dtype(
        artifact,
        TokenBatches(sequences[:1]),
        setting.device,
        on_progress,
        setting.scratch,
        chosen.modules,
        cure=chosen.layer_pass.wider_dtype,
    )


def _readable_layout(job: Job) -> DecoderLayout:
    """The input model, as the transformers of this image understands it."""
    source = readable(job.model.source)
    if source is job.model.source:
        return job.model.layout
    return DecoderLayout.open(source, job.weight_pass.modules)


class _Progress:
    """The share that is done over several evaluations, each of two parts: layers, then heads."""

    def __init__(self, runs: int, head_share: float, tell: Callable[[float], None]) -> None:
        self._runs, self._head_share, self._tell = runs, head_share, tell
        self._run = 0

    def step(self, stage: str, done: int, total: int) -> None:
        """As evaluation.streamed.OnProgress."""
        part = done / total
        share = (
            1 - self._head_share + self._head_share * part
            if stage == "heads"
            else (1 - self._head_share) * part
        )
        self._tell((self._run + share) / self._runs)

    def next(self) -> None:
        """One evaluation has ended."""
        self._run += 1


def _measurement(metric: Metric, figures: Mapping[str, Evaluation], sizes: tuple[int, int]) -> Measurement:
    """Of the input model and of the result."""
    if metric.type == "size_on_disk":
        return Measurement(float(sizes[0]), float(sizes[1]))
    return Measurement.of(*figures[metric.data_config or ""].ratios(metric.type))


def _served(found: MetricResult) -> Measurement:
    """What a model that is served gave."""
    assert found.output is not None
    return Measurement(found.input, found.output)


def _say_what_is_alone(metrics: Sequence[Metric], results: Sequence[MetricResult]) -> None:
    for metric, result in zip(metrics, results, strict=True):
        if metric.sampled and result.low is None:
            logger.warning(
                "%s was measured on one %s, so it has no confidence interval; a goal is judged by the value alone",
                metric.name,
                metric.drawn,
            )
