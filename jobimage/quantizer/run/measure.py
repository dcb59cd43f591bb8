"""The metrics of a workflow, measured on the stored artifact, and what RTN would give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantization_api.metrics import Metric
from quantization_api.status import MetricResult
from quantizer.calibration.tokens import TokenBatches, probe_tokens
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import Source
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.own_dtype import run_in_own_dtype
from quantizer.evaluation.streamed import Evaluation, OnProgress, evaluate, evaluate_beside_rtn
from quantizer.evaluation.views import RtnBaseline
from quantizer.passes.written import schemes_of
from quantizer.progress.workload import head_share
from quantizer.report.quality import beside_name
from quantizer.run.checks import Job, Setting, readable


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    metrics: list[MetricResult]
    """Those of the workflow, in its order."""
    beside: list[MetricResult]
    """Further figures for the report: RTN's."""


def measure(
    job: Job,
    setting: Setting,
    artifact: Source,
    quantized: QuantizeReport,
    on_progress: Callable[[float], None],
) -> Measured:
    """Measures every metric; models run once for each data config, not once for each metric.

    Before that, and if no metric needs text, one sequence is run in the artifact's own data type: every artifact is
    loaded and run as its readers do before it is published.

    Args:
        artifact: the stored checkpoint.
        quantized: how it was made.
        on_progress: called with the share done.

    Raises:
        QuantizationError: ArtifactCorrupt when what was stored does not load, NumericalFailure.
    """
    layout, device, scratch = _readable_layout(job), setting.device, setting.scratch
    metrics, modules = job.request.workflow.metrics(), job.weight_pass.modules
    baseline = RtnBaseline.of(job.weight_pass.layer_pass.with_schemes(schemes_of(quantized.linears)))
    sizes = (quantized.input_bytes, quantized.output_bytes)
    names = list(dict.fromkeys(metric.data_config for metric in metrics if metric.data_config))
    progress = _Progress(max(1, len(names)), head_share(layout), on_progress)
    _probe(job, setting, artifact, progress.step if not names else lambda *_: on_progress(0.0))
    ours: dict[str, Evaluation] = {}
    rtn: dict[str, Evaluation] = {}
    for name in names:
        text = job.tokens[name]
        if baseline is None:
            ours[name] = evaluate(layout, artifact, text, device, progress.step, scratch, modules)
        else:
            ours[name], rtn[name] = evaluate_beside_rtn(
                layout, artifact, baseline, text, device, progress.step, scratch, modules
            )
        progress.next()
    results: list[MetricResult] = []
    beside: list[MetricResult] = []
    for metric in metrics:
        before, after = _values(metric, ours, sizes)
        results.append(MetricResult(name=metric.name, input=before, output=after))
        if metric.data_config is not None and baseline is not None:
            _, rounded = _values(metric, rtn, sizes)
            beside.append(MetricResult(name=beside_name(metric.name), input=before, output=rounded))
    return Measured(results, beside)


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


def _values(metric: Metric, figures: Mapping[str, Evaluation], sizes: tuple[int, int]) -> tuple[float, float]:
    """Of the input model and of the result."""
    if metric.type == "size_on_disk":
        return float(sizes[0]), float(sizes[1])
    figure = figures[metric.data_config or ""]
    if metric.type == "perplexity":
        return figure.reference_perplexity, figure.perplexity
    if metric.type == "kl_divergence":
        return 0.0, figure.kl_divergence
    raise ValueError(f"not a metric of this release: {metric.type}")
