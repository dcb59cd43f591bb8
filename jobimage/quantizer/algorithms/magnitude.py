"""Mean magnitude of each channel of a linear's inputs, the salience measure of AWQ."""

import torch
from torch import Tensor


class MeanMagnitude:
    """Sums |x| over batches, in the order of the calls; divided once at the end.

    Each batch is summed in float32 and added in float64, so that a channel's mean does not drift with the
    number of batches.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._tokens = 0

    def add(self, inputs: Tensor) -> None:
        """Adds a batch [sequences, tokens, width]; every token counts, so none may be padding."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        self._sum += flat.abs().sum(dim=0, dtype=torch.float32)
        self._tokens += flat.shape[0]

    def merge(self, other: "MeanMagnitude") -> None:
        """Adds the sums of another."""
        self._sum += other._sum
        self._tokens += other._tokens

    def mean(self) -> Tensor:
        """Mean of |x| over all tokens: [width] float32."""
        return (self._sum / max(1, self._tokens)).float()
