"""Second moments of a linear's inputs, and errors weighted with them.

For a linear with inputs x the layer-wise loss of a change E of its weights is E[|E x|^2] = tr(E H E') with
H = E[x x'] (GPTQ, arXiv 2210.17323, section 3). All linears that read the same x share one matrix.
"""

import torch
from torch import Tensor

from quantizer.kernels.gram import add_gram, fill_upper


class GramMatrix:
    """Sums x x' over batches in float32, in the order of the calls; divided once at the end.

    The scale, 2 / (number of sequences), is the reference code's. GPTQ does not depend on it except for
    columns that are always zero, which get 1 on the diagonal.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.width = width
        self._sum = torch.zeros((width, width), dtype=torch.float32, device=device)
        self._sequences = 0

    def add(self, inputs: Tensor) -> None:
        """Adds a batch [sequences, tokens, width]; every token counts, so none may be padding."""
        flat = inputs.reshape(-1, inputs.shape[-1]).float()
        add_gram(self._sum, flat)
        self._sequences += inputs.shape[0]

    def merge(self, other: "GramMatrix") -> None:
        """Adds the sums of another; that one is used up."""
        self._sum += other._sum
        self._sequences += other._sequences
        other._sum = torch.empty(0)

    def hessian(self) -> Tensor:
        """The matrix H [width, width]; the accumulator is used up."""
        matrix, self._sum = self._sum, torch.empty(0)
        fill_upper(matrix)
        return matrix.mul_(2.0 / max(1, self._sequences))


def weighted_square(rows: Tensor, hessian: Tensor) -> Tensor:
    """e H e' for each row e of [N, K], in float64: [N]."""
    return ((rows @ hessian) * rows).sum(dim=1, dtype=torch.float64)


def damped_slope(errors: Tensor, hessian: Tensor, block: slice, damping: float) -> Tensor:
    """((H + damping I) E) of a block of columns, [columns, N]: half of what the error E' H E changes with theirs.

    Not addmm with beta=damping, which gives the same numbers: oneDNN makes a kernel for each value of beta and keeps
    it, 200 kB for each weight of a model.

    Args:
        errors: E [K, N] float32. hessian: H [K, K].
    """
    return (hessian[block] @ errors).add_(errors[block], alpha=damping)


def in_order(hessian: Tensor, order: Tensor) -> Tensor:
    """H [K, K] with its columns in that order [K]; itself where they lie in it."""
    as_they_lie = torch.equal(order, torch.arange(len(order), device=order.device))
    return hessian if as_they_lie else hessian[order.unsqueeze(1), order]


def damping_of(hessian: Tensor, damp_percent: float) -> float:
    """What is added to the diagonal of H."""
    return damp_percent * float(hessian.diagonal().mean())
