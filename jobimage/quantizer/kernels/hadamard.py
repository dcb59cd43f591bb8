"""The fast Hadamard transform of rows: x S / sqrt(P), P a power of two.

S is the Hadamard matrix of order P by Sylvester's construction (S[i, j] = (-1)^(number of common bits of i and j)).
It costs log2(P) additions a value in place of P, by butterflies (a, b) -> (a + b, a - b) over distances 1, 2, 4, ...

Kernel and twin compute in float32, in float64 for float64, and round once to the type of x. They add in the same
order and agree bit for bit.
"""

import math

import torch
from torch import Tensor

from quantizer.kernels.dispatch import uses_triton


def check_power_of_two(x: Tensor) -> None:
    """Raises ValueError if the rows of x are not a power of two long."""
    size = x.shape[-1]
    if size < 1 or size & (size - 1):
        raise ValueError(f"{size} columns are not a power of two")


def hadamard_transform(x: Tensor) -> Tensor:
    """Transforms the last dimension of x [..., P] by the faster of kernel and twin; the result is in x's type.

    Raises ValueError if P is not a power of two.
    """
    check_power_of_two(x)
    if uses_triton(x.device):
        from quantizer.kernels import hadamard_triton

        return hadamard_triton.hadamard_transform(x, computed_in(x.dtype))
    return hadamard_transform_plain(x)


def hadamard_transform_plain(x: Tensor) -> Tensor:
    """The twin of the kernel: as hadamard_transform."""
    power, half = x.shape[-1], 1
    rows = x.reshape(-1, power).to(computed_in(x.dtype))
    while half < power:
        a, b = rows.view(-1, power // (2 * half), 2, half).unbind(2)
        rows = torch.stack((a + b, a - b), dim=2).view(-1, power)
        half *= 2
    return (rows * (1.0 / math.sqrt(power))).reshape(x.shape).to(x.dtype)


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The type of the sums."""
    return torch.float64 if dtype is torch.float64 else torch.float32
