"""The fast Hadamard transform of rows: x (F x S) with a small dense factor F and a power of two for S.

A row of n = m P values, P a power of two, is looked at as X [m, P] and becomes

    Y = F' X S / sqrt(P)

with S the Hadamard matrix of order P by Sylvester's construction (S[i, j] = (-1)^(number of common bits of
i and j)) and F [m, m] a matrix for the rest of the size: 12 for 768 = 12 * 64, 28 for 14336 = 28 * 512. With
F orthogonal the transform is a rotation: norms stay, and the transform with F' undoes it. S costs log2(P)
additions a value in place of P, by butterflies (a, b) -> (a + b, a - b) over distances 1, 2, 4, ...

Kernel and twin compute in float32 and round once to the type of x. Without a factor they add in the same order
and agree bit for bit; the product with F sums in an order of its own on each side, so there they agree to
within m rounding errors of float32.
"""

import math

import torch
from torch import Tensor

from quantizer.kernels.dispatch import uses_triton


def power_of_two(x: Tensor, factor: Tensor | None) -> int:
    """P, the order of Sylvester's part; ValueError where the size is not the factor's times a power of two."""
    size, small = x.shape[-1], 1 if factor is None else factor.shape[0]
    power = size // small
    if factor is not None and factor.shape != (small, small):
        raise ValueError(f"the small factor is {list(factor.shape)}; it must be square")
    if power < 1 or power * small != size or power & (power - 1):
        raise ValueError(f"{size} columns are not {small} times a power of two")
    return power


def hadamard_transform(x: Tensor, factor: Tensor | None = None) -> Tensor:
    """Transforms the last dimension of x by the faster of kernel and twin.

    Args:
        x: [..., n] float32, float16 or bfloat16.
        factor: F [m, m], orthogonal for a rotation, with n = m * 2^k; None is m = 1.

    Returns:
        [..., n], in x's type.

    Raises ValueError when n is not m times a power of two, or F is not square.
    """
    power_of_two(x, factor)
    if uses_triton(x.device):
        from quantizer.kernels import hadamard_triton

        return hadamard_triton.hadamard_transform(x, factor)
    return hadamard_transform_plain(x, factor)


def hadamard_transform_plain(x: Tensor, factor: Tensor | None = None) -> Tensor:
    """The twin of the kernels: as hadamard_transform."""
    power = power_of_two(x, factor)
    rows = x.reshape(-1, power).float()
    half = 1
    while half < power:
        a, b = rows.view(-1, power // (2 * half), 2, half).unbind(2)
        rows = torch.stack((a + b, a - b), dim=2).view(-1, power)
        half *= 2
    rows = rows * (1.0 / math.sqrt(power))
    if factor is not None:
        rows = factor.t().float() @ rows.view(-1, factor.shape[0], power)
    return rows.reshape(x.shape).to(x.dtype)
