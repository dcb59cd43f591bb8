"""Estimates of the work of each stage, in multiply-adds, for progress and time to the end."""

import math
from collections.abc import Mapping, Sequence

from quantization_api.passes import GptqQuantizer
from quantization_api.workflow import Metric
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.model import DecoderModel
from quantizer.report.progress import Stage

SOLVE_FACTOR = 2.0  # rounding a column costs more than its multiply-adds: it is not one large product
LOGIT_COST = 200  # of the softmax and the sums over the vocabulary, for one logit
PUBLISH_SHARE = 0.02


def plan(
    decoder: DecoderModel,
    parameters: GptqQuantizer,
    tokens: Mapping[str, TokenBatches],
    metrics: Sequence[Metric],
) -> list[Stage]:
    """The stages after the check, with their estimated work.

    A forward pass costs one multiply-add for each weight and token. Quantizing runs every layer about
    twice, gathers a Gram matrix (K^2 a token for each distinct input of width K) and solves (N K^2 for a
    linear [N, K]). Evaluating runs two models, and again two for plain rounding beside.
    """
    shapes = decoder.layer_shapes()
    linears = [shapes[f"{name}.weight"] for name in decoder.architecture.linears]
    weights = sum(rows * columns for rows, columns in linears)
    grams = sum(shapes[f"{names[0]}.weight"][1] ** 2 for names in decoder.architecture.stages)
    calibration = tokens[parameters.data_config].tokens
    solve = SOLVE_FACTOR * sum(rows * columns**2 for rows, columns in linears)
    quantize = decoder.layers * (calibration * (2 * weights + grams) + solve)
    forward = decoder.layers * weights + _head(decoder)
    names = {metric.data_config for metric in metrics if metric.data_config}
    evaluated = 4 * sum(tokens[name].tokens for name in names) or 2 * len(
        tokens[parameters.data_config].sequences[0]
    )
    evaluate = float(evaluated * forward)
    return [
        Stage("quantize", quantize),
        Stage("evaluate", evaluate),
        Stage("publish", PUBLISH_SHARE * (quantize + evaluate)),
    ]


def head_share(decoder: DecoderModel) -> float:
    """Share of an evaluation that is spent on the heads and the figures over the vocabulary."""
    shapes = decoder.layer_shapes()
    weights = sum(math.prod(shapes[f"{name}.weight"]) for name in decoder.architecture.linears)
    head = _head(decoder)
    return head / (decoder.layers * weights + head)


def _head(decoder: DecoderModel) -> int:
    return decoder.vocabulary * (decoder.width + LOGIT_COST)
