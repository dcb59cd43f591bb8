"""Statistics of what the linears of a layer read, gathered in one pass over the calibration batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite
from quantizer.algorithms.hessian import GramMatrix
from quantizer.algorithms.magnitude import MeanMagnitude
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.decoder.walk import LayerWalk

MORE_TOKENS = (
    "Raise max_samples or max_seq_len in the pass's data config (for QuaRot, calibration_nsamples as well)."
)
"""What to do where a linear read too little."""
ALL_ZERO = (
    "Something before it is zero: a norm, or weights that are too small for the type that they are loaded or rounded "
    "in. If they are tiny, write input_model_dtype: fp32 (of AWQ and QuaRot), or leave out the linear before it."
)
"""What to do where a linear reads zeros only."""


class InputStatistics:
    """Of one shared input: the Gram matrix and, where asked for, mean magnitudes; made when the first input comes."""

    def __init__(self, device: torch.device, magnitudes: bool = False) -> None:
        self._device, self._magnitudes = device, magnitudes
        self._gram: GramMatrix | None = None
        self._magnitude: MeanMagnitude | None = None
        self.tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Inputs [..., K] of one batch; every row is a token."""
        if self._gram is None:
            self._gram = GramMatrix(inputs.shape[-1], self._device)
            self._magnitude = MeanMagnitude(inputs.shape[-1], self._device) if self._magnitudes else None
        self.tokens += inputs.numel() // inputs.shape[-1]
        self._gram.add(inputs)
        if self._magnitude is not None:
            self._magnitude.add(inputs)

    def merge(self, other: "InputStatistics") -> None:
        """Adds the statistics that another has of the same input; that one is used up."""
        assert self._gram is not None
        assert other._gram is not None
        self.tokens += other.tokens
        self._gram.merge(other._gram)
        if self._magnitude is not None and other._magnitude is not None:
            self._magnitude.merge(other._magnitude)

    def mean_magnitude(self) -> Tensor:
        """Mean |x| of each channel [K]; only where magnitudes are gathered and a token came."""
        return torch.empty(0) if self._magnitude is None else self._magnitude.mean()

    def hessian(self, name: str) -> Tensor:
        """H [K, K]; the statistics are used up. name: a linear that reads the input, for messages.

        Raises:
            QuantizationError: DataInsufficient when no token came; NumericalFailure when H is not finite
                or zero.
        """
        if self._gram is None or self.tokens == 0:
            raise QuantizationError(
                Category.DATA_INSUFFICIENT,
                f"no token of the calibration text reached {name}, so there is nothing to calibrate it with",
                f"{MORE_TOKENS} A more varied text reaches more experts.",
            )
        hessian = self._gram.hessian()
        self._gram = None
        if not all_finite(hessian):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"the inputs of {name} are not finite on the calibration text"
            )
        if not bool((hessian.diagonal() > 0).any()):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"the inputs of {name} are zero on all of the calibration text",
                ALL_ZERO,
            )
        return hessian


def gather(
    walk: LayerWalk,
    stages: Sequence[Stage],
    device: torch.device,
    *,
    magnitudes: bool = False,
    propagate_unrounded: bool = False,
    also: Callable[[int, Tensor], None] = lambda *_: None,
) -> dict[SharedInput, InputStatistics]:
    """Statistics of every shared input of the next stages; propagate_unrounded as in LayerWalk.visit.

    Batches that run side by side are summed up side by side, and the sums added in their order.

    also: called with each batch's number and what was read of it, in the thread that sums it up.
    """
    parts: list[dict[SharedInput, InputStatistics]] = [{} for _ in range(walk.side_by_side)]

    def look(number: int, shared: SharedInput, read: Tensor) -> None:
        part = parts[number % len(parts)]
        part.setdefault(shared, InputStatistics(device, magnitudes)).add(read)
        also(number, read)

    walk.visit(stages, look, propagate_unrounded=propagate_unrounded)
    found, *others = parts
    for part in others:
        for shared in list(part):
            found[shared].merge(part.pop(shared))
    return found
