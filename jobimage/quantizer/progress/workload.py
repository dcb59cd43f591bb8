"""Estimates of the work of each stage, in multiply-adds, for progress and time to the end."""

import math
from collections.abc import Mapping, Sequence

from quantization_api.metrics import Metric
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.layout import DecoderLayout
from quantizer.progress.tracker import PlannedStage

SOLVE_FACTOR = (
    4.0  # rounding a column costs more than its multiply-adds, and afterwards all are chosen again twice
)
LEARNED = (
    6 * 60 * 2048
)  # tokens whose forward pass costs what fitting a layer does (passes.reconstruction): 60 steps
LOGIT_COST = 40  # of the softmax and the sums over the vocabulary, for one logit
EVALUATE_FACTOR = (
    1.6  # so is evaluating: models are read back from their formats, logits come in small slices
)
WALKED_AGAIN = (
    4096  # tokens that every layer sees for each layer, as passes.sensitivity has them: 4 ties, half the way
)
PUBLISH_SECONDS = 2.0  # a library is loaded that draws the report's pictures; as long after a run of hours
EXPORT_SHARE = 0.5  # of the rest: the model builder takes long on a small model


def plan(
    layout: DecoderLayout,
    calibration: TokenBatches,
    tokens: Mapping[str, TokenBatches],
    metrics: Sequence[Metric],
    exports: bool = False,
    task_tokens: int = 0,
    chooses: bool = False,
    follows_float: bool = False,
) -> list[PlannedStage]:
    """The stages after the check, with their estimated work.

    A forward pass costs one multiply-add for each weight and token. Quantizing runs every layer about
    twice, gathers a Gram matrix (K^2 a token for each distinct input of width K) and solves (N K^2 for a
    linear [N, K]). Evaluating runs three models: before, after, and RTN; tasks, whose texts have task_tokens,
    run the first two. Publishing takes seconds, whatever the model: what is large was stored, and read back,
    while it was quantized. Choosing bits walks over the float model before that, and sends a few sequences along
    for each tie of its linears. Following the float model runs each of its layers beside the rounded one, compares
    their inputs, and fits the layer's output.
    """
    weights = grams = solve = 0.0
    for index in range(layout.layers):
        shapes = layout.linear_shapes(index)
        weights += sum(rows * columns for rows, columns in shapes.values())
        solve += SOLVE_FACTOR * sum(rows * columns**2 for rows, columns in shapes.values())
        grams += sum(
            shapes[shared.names[0]][1] ** 2
            for stage in layout.stages(index)
            for shared in stage.shared_inputs
        )
    quantize = calibration.tokens * (2 * weights + grams) + solve
    if chooses:
        quantize += calibration.tokens * (weights + grams) + WALKED_AGAIN * weights * layout.layers + solve
    if follows_float:
        quantize += calibration.tokens * (4 * weights + 2 * grams) + LEARNED * weights
    forward = weights + _head(layout)
    names = {metric.data_config for metric in metrics if metric.data_config}
    first = calibration.sequences[0] if calibration.sequences else ()
    evaluated = 3 * sum(tokens[name].tokens for name in names) + 2 * task_tokens or 2 * len(first)
    evaluate = EVALUATE_FACTOR * evaluated * forward
    export = EXPORT_SHARE * (quantize + evaluate)
    return [
        PlannedStage("quantize", quantize),
        *([PlannedStage("export", export)] if exports else []),
        PlannedStage("evaluate", evaluate),
        PlannedStage("publish", 0.0, PUBLISH_SECONDS),
    ]


def head_share(layout: DecoderLayout) -> float:
    """Share of an evaluation that is spent on the heads and the figures over the vocabulary."""
    weights = sum(
        math.prod(shape) for index in range(layout.layers) for shape in layout.linear_shapes(index).values()
    )
    head = _head(layout)
    return head / (weights + head)


def _head(layout: DecoderLayout) -> int:
    return layout.vocabulary * (layout.width + LOGIT_COST)
