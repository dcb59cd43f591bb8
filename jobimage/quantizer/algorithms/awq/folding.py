"""Putting AWQ's channel scales into the weights: 1 / s into what makes x, s into the columns that read it.

What can make x, with the scale folded in exactly:

* a norm: its weight (and bias) is divided; for norms that multiply by 1 + weight (Gemma) the sum is.
* a linear, when everything between its output and x is linear in it: the value projection before the
  attention's output projection, the up projection before the down projection of a gated MLP. Its rows are
  divided. A value head that serves several query heads is a row that several channels come from.

All functions return new tensors and leave their arguments alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite


@dataclass(frozen=True)
class FoldedNorm:
    """A norm with scales folded in."""

    weight: Tensor
    """In its own dtype, as the bias is."""
    bias: Tensor | None
    scales: Tensor
    """[K] float32, the scales that the norm stands for.

    A norm that is stored in 16 bits cannot hold weight / s exactly; these are the scales that it does hold. The columns
    must be multiplied by them instead of s, so that the function stays the same."""


def fold_into_norm(
    weight: Tensor, scales: Tensor, bias: Tensor | None = None, unit_offset: bool = False
) -> FoldedNorm:
    """Divides what a norm puts out by scales [K].

    Args:
        weight: [K], of an RMS norm or a LayerNorm.
        bias: [K], of a LayerNorm.
        unit_offset: the norm multiplies by 1 + weight.

    Raises:
        QuantizationError: NumericalFailure when a divided weight does not fit the norm's dtype.
    """
    offset = 1.0 if unit_offset else 0.0
    gain = weight.double() + offset
    folded = (gain / scales.double() - offset).to(weight.dtype)
    held = folded.double() + offset
    effective = torch.where((gain == 0) | (held == 0), scales.double(), gain / held).float()
    new_bias = None if bias is None else (bias.double() / effective.double()).to(bias.dtype)
    _check(folded, effective, *([] if new_bias is None else [new_bias]))
    if bool(((gain != 0) & (held == 0)).any()):
        raise _does_not_fit()
    return FoldedNorm(folded, new_bias, effective)


def fold_into_rows(
    weight: Tensor, scales: Tensor, producer_rows: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Divides the output rows of the linear that makes x.

    Args:
        weight: [N, any], of the producer; bias: [N].
        scales: [K], of the channels of x.
        producer_rows: [K] int64, the row that each channel comes from; rows that none comes from stay.

    Raises:
        ValueError: when channels of one row have different scales.
        QuantizationError: NumericalFailure when a divided weight does not fit its dtype.
    """
    divisor = torch.ones(weight.shape[0], dtype=torch.float32, device=weight.device)
    divisor[producer_rows] = scales
    if not torch.equal(divisor[producer_rows], scales):
        raise ValueError("channels that come from one row of the producer must have one scale")
    new_weight = (weight.float() / divisor.unsqueeze(1)).to(weight.dtype)
    new_bias = None if bias is None else (bias.float() / divisor).to(bias.dtype)
    _check(new_weight, *([] if new_bias is None else [new_bias]))
    return new_weight, new_bias


def scale_columns(weight: Tensor, scales: Tensor) -> Tensor:
    """W s: a consumer's weight [N, K] in float32 with its columns multiplied by scales [K]."""
    return weight.float() * scales


def scaled_gram(gram: Tensor, scales: Tensor) -> Tensor:
    """The Gram matrix of x / s from that of x."""
    return gram / scales.unsqueeze(1) / scales.unsqueeze(0)


def _check(*tensors: Tensor) -> None:
    if not all(all_finite(tensor) for tensor in tensors):
        raise _does_not_fit()


def _does_not_fit() -> QuantizationError:
    return QuantizationError(
        Category.NUMERICAL_FAILURE,
        "a weight divided by its AWQ scale does not fit the type it is stored in",
        "Convert the model to float32 or bfloat16 first.",
    )
