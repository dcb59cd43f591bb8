"""The scale search of AWQ (arXiv 2306.00978, section 3.2) in Gram form.

Multiplying input channel k of W by s_k and dividing x_k by it leaves the function as it is and moves the
rounding error from salient channels to others. The candidates are

    s(r) = x^r / w^(1-r)      duo_scaling        (x: mean |x| of a channel, w: mean relative |W| of a column)
    s(r) = x^r                activations alone

for r = 0, 1/20, .. 19/20, normalised by sqrt(max s * min s), and the identity. The error of a candidate is
tr(E G E') with E = Q(W s) / s - W, for all candidates in one product. AutoAWQ measures it behind the
attention or the MLP instead (for a single linear the two are the same up to a factor).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.awq.rounding import AwqConfig, rounded_values

RATIOS = tuple(step / 20 for step in range(20))
SMALLEST_SCALE = 1e-4  # both as in AutoAWQ, and before the normalisation
WEIGHT_FLOOR = 1e-4
CHUNK_CPU, CHUNK_GPU = 2**19, 2**26  # elements of all candidates of a chunk of rows


@dataclass(frozen=True)
class ScaleChoice:
    """The best candidate."""

    scales: Tensor
    """[K] float32, positive; ones for the identity."""
    ratio: float | None
    """r of the candidate; None for the identity."""
    loss: float
    """tr(E G E') of the candidate, in the units of G."""
    loss_identity: float
    """The same without scaling."""
    losses: tuple[float, ...]
    """Of the identity, then of each of RATIOS."""


def search_scales(
    weight: Tensor,
    gram: Tensor,
    magnitude: Tensor,
    config: AwqConfig,
    producer_rows: Tensor | None = None,
) -> ScaleChoice:
    """Chooses the scales of the input channels of linears that read the same x.

    Args:
        weight: [N, K], the linears that will be rounded, stacked by rows. Linears that read x too but stay
            unrounded have no error and are left out here; they must be scaled all the same.
        gram: G [K, K] float32 of x, in any unit.
        magnitude: [K], mean |x|.
        producer_rows: [K] int64, which row of the linear that makes x each channel comes from. Channels of
            one row (heads that share a value head, in grouped-query attention) get one scale, from their
            pooled statistics. None: every channel is its own.

    Raises:
        QuantizationError: NumericalFailure when a statistic or an error is not finite; InvalidWorkflow when
            group_size does not divide K.
    """
    weight = weight.float()
    candidates = candidate_scales(magnitude, column_magnitude(weight, config), config, producer_rows)
    losses = [float(loss) for loss in candidate_losses(weight, gram, candidates, config)]
    best = min(range(len(losses)), key=losses.__getitem__)
    if not all(loss < float("inf") for loss in losses):  # false for NaN too
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            "the error of a candidate scale is not finite",
            "Look for weights or activations that are not finite, or too large for float16.",
        )
    ratio = None if best == 0 else RATIOS[best - 1]
    return ScaleChoice(candidates[best].clone(), ratio, losses[best], losses[0], tuple(losses))


def column_magnitude(weight: Tensor, config: AwqConfig) -> Tensor:
    """Mean over rows of |W| relative to the largest of its group: [K]."""
    rows, columns = weight.shape
    groups = weight.abs().view(rows, -1, config.group_width(columns))
    return groups.div_(groups.amax(-1, keepdim=True).add_(1e-6)).view(rows, columns).mean(0)


def candidate_scales(
    magnitude: Tensor, column_mean: Tensor, config: AwqConfig, producer_rows: Tensor | None = None
) -> Tensor:
    """The identity and s(r) for each of RATIOS: [1 + 20, K] float32."""
    if producer_rows is None:
        return _candidates(magnitude.float(), column_mean, config)
    # computed once a row and handed out: pow's last bit may depend on where in a vector a channel lies
    row_of = torch.unique(producer_rows, return_inverse=True)[1]
    pooled = _candidates(_pooled(magnitude.float(), row_of), _pooled(column_mean, row_of), config)
    return pooled[:, row_of]


def _candidates(inputs: Tensor, weights: Tensor, config: AwqConfig) -> Tensor:
    ratios = torch.tensor(RATIOS, device=inputs.device).unsqueeze(1)
    scales = inputs.pow(ratios)
    if config.duo_scaling:
        scales = scales / (weights.pow(1 - ratios) + WEIGHT_FLOOR)
    scales = scales.clamp_(min=SMALLEST_SCALE)
    scales /= (scales.amax(1, keepdim=True) * scales.amin(1, keepdim=True)).sqrt_()
    return torch.cat([torch.ones_like(scales[:1]), scales])


def _pooled(statistic: Tensor, row_of: Tensor) -> Tensor:
    """Mean of a statistic [K] over the channels of each row; row_of [K] counts rows without gaps."""
    counts = torch.bincount(row_of)
    return torch.zeros(len(counts), device=statistic.device).index_add_(0, row_of, statistic) / counts


def candidate_losses(weight: Tensor, gram: Tensor, candidates: Tensor, config: AwqConfig) -> Tensor:
    """tr(E G E') of each candidate [C, K], with E = Q(W s) / s - W: [C] float64.

    Works through the rows in chunks, all candidates of a chunk in one product.
    """
    columns = weight.shape[1]
    width, count = config.group_width(columns), candidates.shape[0]
    budget = CHUNK_CPU if weight.device.type == "cpu" else CHUNK_GPU
    losses = torch.zeros(count, dtype=torch.float64, device=weight.device)
    scales = candidates.view(count, 1, -1, width)
    for part in weight.split(max(1, budget // (count * columns))):
        plain = part.view(-1, columns // width, width)
        error = rounded_values(plain * scales, config).div_(scales).sub_(plain)
        flat = error.view(count, -1, columns)
        losses += (flat @ gram).mul_(flat).sum(dim=(1, 2), dtype=torch.float64)
    return losses
