"""The metrics of a workflow, measured on the stored artifact, and what plain rounding would give."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.status import MetricResult
from quantization_api.workflow import Metric
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import Source
from quantizer.evaluation.streamed import Evaluation, evaluate, evaluate_round_to_nearest
from quantizer.passes.gptq import GptqConfig
from quantizer.report.model_card import ROUNDED_PREFIX


@dataclass(frozen=True)
class Measured:
    """metrics: those of the workflow, in its order. beside: further figures for the report."""

    metrics: list[MetricResult]
    beside: list[MetricResult]


def measure(
    metrics: Sequence[Metric],
    model: Source,
    artifact: Source,
    tokens: Mapping[str, TokenBatches],
    calibration: TokenBatches,
    config: GptqConfig,
    sizes: tuple[int, int],
    device: torch.device,
    scratch: Path,
    on_progress: Callable[[int, int], None],
) -> Measured:
    """Measures every metric; models run once for each data config, not once for each metric.

    Args:
        tokens: by name of the data config. calibration: of the pass; one sequence of it is run when no
            metric needs text, so that every artifact was loaded and run before it is published.
        sizes: bytes of the safetensors before and after.

    Raises:
        QuantizationError: ArtifactCorrupt when what was stored does not load, NumericalFailure.
    """
    names = list(dict.fromkeys(metric.data_config for metric in metrics if metric.data_config))
    if not names:
        first = TokenBatches(calibration.sequences[:1])
        evaluate(model, artifact, first, device, lambda _, done, total: on_progress(done, total), scratch)
    ours: dict[str, Evaluation] = {}
    rounded: dict[str, Evaluation] = {}
    for number, name in enumerate(names):

        def step(half: int, done: int, total: int, number: int = number) -> None:
            on_progress((2 * number + half) * total + done, 2 * len(names) * total)

        ours[name] = evaluate(
            model, artifact, tokens[name], device, lambda _, done, total: step(0, done, total), scratch
        )
        rounded[name] = evaluate_round_to_nearest(
            model, config, tokens[name], device, lambda _, done, total: step(1, done, total), scratch
        )
    results: list[MetricResult] = []
    beside: list[MetricResult] = []
    for metric in metrics:
        before, after = _values(metric, ours, sizes)
        results.append(MetricResult(name=metric.name, input=before, output=after))
        if metric.data_config is not None:
            _, plain = _values(metric, rounded, sizes)
            beside.append(MetricResult(name=_beside_name(metric.name), input=before, output=plain))
    return Measured(results, beside)


def _beside_name(name: str) -> str:
    return (ROUNDED_PREFIX + name)[:63]


def _values(metric: Metric, figures: Mapping[str, Evaluation], sizes: tuple[int, int]) -> tuple[float, float]:
    """Of the input model and of the result."""
    if metric.type == "size_on_disk":
        return float(sizes[0]), float(sizes[1])
    figure = figures[metric.data_config or ""]
    if metric.type == "perplexity":
        return figure.reference_perplexity, figure.perplexity
    if metric.type == "kl_divergence":
        return 0.0, figure.kl_divergence
    raise QuantizationError(
        Category.INVALID_WORKFLOW, f"metric type {metric.type} is not available in this release"
    )
