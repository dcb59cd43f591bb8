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
TOKENS_PER_INPUT = 2
"""With fewer, what a linear read is few: on the activations of a small Llama, GPTQ of 4 bits was worse than rounding to
nearest on other tokens of the same text: 1.3 to 1.9 times its error between K / 8 and K tokens for K inputs, 0.8 to
0.95 times at 2 K and 0.7 to 0.8 times at 4 K."""
ALL_ZERO = (
    "Something before it is zero: a norm, or weights that are too small for the type that they are loaded or rounded "
    "in. If they are tiny, write input_model_dtype: fp32 (of AWQ and QuaRot), or leave out the linear before it."
)
"""What to do where a linear reads zeros only."""


def are_few(tokens: int, inputs: int) -> bool:
    """Whether a linear with so many inputs has read too few tokens to be fitted to them."""
    return tokens < TOKENS_PER_INPUT * inputs


class InputStatistics:
    """Of one shared input: the Gram matrix and, where asked for, mean magnitudes; made when the first input comes."""

    def __init__(self, device: torch.device, magnitudes: bool = False) -> None:
        self._device, self._magnitudes = device, magnitudes
        self._gram: GramMatrix | None = None
        self._magnitude: MeanMagnitude | None = None
        self.tokens = 0
        self.routed: int | None = None
        """Of the tokens, those that a router sends, where an expert reads all of them."""

    @property
    def inputs(self) -> int:
        """K; 0 before the first input came."""
        return 0 if self._gram is None else self._gram.width

    def count_routed(self, tokens: int) -> None:
        """Adds to `routed`."""
        self.routed = (self.routed or 0) + tokens

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
        if other.routed is not None:
            self.count_routed(other.routed)
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
                f"{MORE_TOKENS} A more varied text reaches more experts; or set the pass's experts.few_tokens to rtn "
                "or all.",
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
    every_expert: bool = False,
) -> dict[SharedInput, InputStatistics]:
    """Statistics of every shared input of the next stages; propagate_unrounded, every_expert: as in LayerWalk.visit.

    Batches that run side by side are summed up side by side, and the sums added in their order.

    also: called with each batch's number and what was read of it, in the thread that sums it up.
    """
    parts: list[dict[SharedInput, InputStatistics]] = [{} for _ in range(walk.side_by_side)]

    def look(number: int, shared: SharedInput, read: Tensor) -> None:
        part = parts[number % len(parts)]
        part.setdefault(shared, InputStatistics(device, magnitudes)).add(read)
        also(number, read)

    def count(number: int, shared: SharedInput, tokens: int) -> None:
        if shared.expert:
            parts[number % len(parts)][shared].count_routed(tokens)

    walk.visit(
        stages,
        look,
        propagate_unrounded=propagate_unrounded,
        every_expert=count if every_expert else None,
    )
    found, *others = parts
    for part in others:
        for shared in list(part):
            found[shared].merge(part.pop(shared))
    return found
