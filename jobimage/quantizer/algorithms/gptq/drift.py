"""What the layers before have already changed of a linear's input, made up for by its weights. Pure.

GPTQ asks that a rounded linear does to its input what the linear did. But that input is no longer what it was: it comes
from layers that are rounded themselves. With x the input as it is and x' as it was, W x' is wanted of Q x, and the
weights that come nearest to it, before they are rounded, are

    W + W D (H + damp I)^-1        D = sum (x' - x) x,  H = sum x x

(GPTAQ, arXiv 2504.02692, gets there column by column). All of it fits the calibration text more closely than any other
text: half of it was better on a small Llama (docs/benchmarks.md).
"""

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.hessian import damping_of

SHARE = 0.5
"""Of the change that is made."""


class DriftSum:
    """Sums (x' - x) x over batches, float32 [K, K], in the order of the calls."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._sum = torch.zeros((width, width), dtype=torch.float32, device=device)
        self._sequences = 0

    def add(self, before: Tensor, inputs: Tensor) -> None:
        """A batch [sequences, tokens, K] as it was before anything was rounded, and as it is."""
        now = inputs.reshape(-1, inputs.shape[-1]).float()
        was = before.reshape(now.shape).float()
        self._sum.addmm_((was - now).t(), now)
        self._sequences += inputs.shape[0]

    def merge(self, other: "DriftSum") -> None:
        """Adds the sums of another."""
        self._sum += other._sum
        self._sequences += other._sequences

    def mean(self) -> Tensor:
        """D [K, K], on the scale of GramMatrix."""
        return self._sum * (2.0 / max(1, self._sequences))


def compensated(weight: Tensor, hessian: Tensor, drift: Tensor, damp_percent: float) -> Tensor:
    """The weights [N, K] that are to be rounded instead of these.

    Args:
        weight: [N, K] float32.
        hessian: H [K, K].
        drift: D [K, K].
        damp_percent: of the mean diagonal, added to the diagonal of H; what factor_hessian needed.

    Raises:
        QuantizationError: NumericalFailure when H cannot be factored all the same.
    """
    damped = hessian.clone()
    damped.diagonal().add_(damping_of(hessian, damp_percent))
    factor, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"the Hessian cannot be factored with damp_percent {damp_percent:g}",
            "Raise damp_percent, or calibrate with more text.",
        )
    return weight + SHARE * torch.cholesky_solve((weight @ drift).t(), factor).t()
