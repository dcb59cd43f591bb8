"""Orthogonal matrices of any size that spread outliers, generated from (size, seed) and applied fast.

A matrix of size n is diag(s) (F1 x F2 x ... x I): a seeded diagonal of signs and a Kronecker product of
small factors, so that x Q costs n * (f1 + f2 + ...) and not n * n. Each factor is

    Sylvester         2^k
    Paley I           q + 1      q a prime power, q = 3 mod 4      12, 20, 28, 44, 108, 344, ...
    Paley II          2 (q + 1)  q a prime power, q = 1 mod 4      36, 52, 76, 100, 148, ...
    random orthogonal            the part of n that no Hadamard matrix of these kinds covers

with entries of one size (Hadamard) or seeded Gaussian directions (random). The paper (QuaRot, arXiv
2404.00456, section 3) uses stored tables for the sizes that are no powers of 2; these are generated.
The first column of every factor is constant: that is what lets MeanPreserving keep the mean direction.

The signs come from Python's own generator, whose sequence is fixed across versions and machines. This file
is also part of the code that an artifact carries (formats.quarot), so it needs nothing but torch.
"""

import math
import random
from functools import cached_property, lru_cache

import torch
from torch import Tensor

LARGEST_PALEY = 2048  # factors beyond this order are no longer cheap to apply
SYLVESTER_CHUNK = 5  # powers of 2 are applied as factors of at most 2^5


@lru_cache(maxsize=64)
def quadratic_character(order: int) -> Tensor | None:
    """chi(a - b) of all elements a, b of the field with `order` elements (int64, 0, 1 or -1).

    None unless order is an odd prime power. Elements are vectors of digits to the base p. The field's
    polynomial is found by trial: it is primitive when the powers of its root x run through every non-zero
    element; chi is then 1 on the even powers and -1 on the odd ones.
    """
    prime = next((d for d in range(2, math.isqrt(order) + 1) if order % d == 0), order)
    degree = round(math.log(order, prime)) if order > 2 else 1
    if prime % 2 == 0 or prime**degree != order:
        return None
    for number in range(1, order):
        tail = [number // prime**i % prime for i in range(degree)]
        powers, element = [], [1] + [0] * (degree - 1)
        while True:
            powers.append(sum(digit * prime**i for i, digit in enumerate(element)))
            top, element = element[-1], [0, *element[:-1]]
            element = [(digit + top * c) % prime for digit, c in zip(element, tail, strict=True)]
            code = sum(digit * prime**i for i, digit in enumerate(element))
            if code == 1 or code == 0 or len(powers) >= order:
                break
        if code == 1 and len(powers) == order - 1:
            break
    chi = torch.zeros(order, dtype=torch.int64)
    chi[torch.tensor(powers[0::2])], chi[torch.tensor(powers[1::2])] = 1, -1
    difference = torch.zeros((order, order), dtype=torch.int64)
    for i in range(degree):
        digit = torch.arange(order) // prime**i % prime
        difference += (digit.unsqueeze(1) - digit) % prime * prime**i
    return chi[difference]


@lru_cache(maxsize=64)
def paley(order: int) -> Tensor | None:
    """A Hadamard matrix (entries 1 and -1, first column 1) by Paley's constructions, None where there is none."""
    if order % 4 or order > LARGEST_PALEY:
        return None
    if (core := quadratic_character(order - 1)) is not None:
        skew = torch.ones((order, order), dtype=torch.int64)
        skew[0, 0], skew[1:, 0], skew[1:, 1:] = 0, -1, core
        matrix = skew + torch.eye(order, dtype=torch.int64)
    elif order % 8 == 4 and (core := quadratic_character(order // 2 - 1)) is not None:
        half = order // 2
        conference = torch.ones((half, half), dtype=torch.int64)
        conference[0, 0], conference[1:, 1:] = 0, core
        one, other = torch.tensor([[1, 1], [1, -1]]), torch.tensor([[1, -1], [-1, -1]])
        matrix = torch.kron(conference, one) + torch.kron(torch.eye(half, dtype=torch.int64), other)
    else:
        return None
    return (matrix * matrix[:, :1]).double()


def sylvester(exponent: int) -> Tensor:
    """The Hadamard matrix of order 2^exponent by Sylvester's construction; its first column is 1."""
    matrix = torch.ones((1, 1), dtype=torch.float64)
    for _ in range(exponent):
        matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return matrix


@lru_cache(maxsize=1024)
def _hadamard_orders(size: int) -> tuple[int, ...] | None:
    """Orders of Hadamard matrices with this product and the least sum, 2s last; None where there are none."""
    if size == 1:
        return ()
    best: tuple[int, ...] | None = (2,) * (size.bit_length() - 1) if size & (size - 1) == 0 else None
    for order in range(size, 2, -1):
        if best is None or order < sum(best):
            if size % order or order & (order - 1) == 0 or paley(order) is None:
                continue
            rest = _hadamard_orders(size // order)
            if rest is not None and (best is None or order + sum(rest) < sum(best)):
                best = tuple(sorted((order, *rest), reverse=True))
    return best


@lru_cache(maxsize=1024)
def factorize(size: int) -> tuple[tuple[int, ...], int]:
    """(orders of the Hadamard factors, order of the random orthogonal factor; 1 is none).

    288 is ((12, 12, 2), 1); 13696 = 107 * 128 has no Hadamard matrix of these kinds for the 107 and is
    ((2,) * 7, 107). The random part is as small as it can be.
    """
    if size < 1:
        raise ValueError(f"a matrix has no size {size}")
    for part in range(1, size + 1):
        if size % part == 0 and (orders := _hadamard_orders(size // part)) is not None:
            return orders, part
    raise AssertionError("size // size is 1, which has no factors")


def random_orthogonal(order: int, seed: str) -> Tensor:
    """A seeded orthogonal matrix in float64: its first column is constant, the others are random directions."""
    source = random.Random(f"{seed}:orthogonal")
    gaussian = torch.tensor(
        [
            math.sqrt(-2.0 * math.log(1.0 - source.random())) * math.cos(2.0 * math.pi * source.random())
            for _ in range(order * order)
        ],
        dtype=torch.float64,
    ).view(order, order)
    gaussian[:, 0] = 1.0
    q, r = torch.linalg.qr(gaussian)
    matrix: Tensor = (q * torch.sign(r.diagonal())).contiguous()
    return matrix


def _dense_factors(size: int, seed: str) -> list[Tensor]:
    """Those that are no powers of 2: orthogonal, float64."""
    orders, part = factorize(size)
    factors = [random_orthogonal(part, seed)] if part > 1 else []
    for order in orders:
        if order > 2 and (matrix := paley(order)) is not None:
            factors.append(matrix / math.sqrt(order))
    return factors


def _sylvester_factors(exponent: int) -> list[Tensor]:
    """2^exponent as a few orthogonal matrices of up to 2^SYLVESTER_CHUNK, float64."""
    chunks = -(-exponent // SYLVESTER_CHUNK)
    powers = [exponent // chunks + (index < exponent % chunks) for index in range(chunks)]
    return [sylvester(power) / math.sqrt(2.0**power) for power in powers]


class Rotation:
    """An orthogonal matrix Q = diag(signs) (F1 x F2 x ... x I_inner), applied to rows: x Q.

    Args:
        size: n, columns of x (with the inner part).
        seed: of the signs and of a random factor; the same text gives the same matrix everywhere.
        inner: the rotation mixes groups of `inner` neighbouring columns as wholes: of [heads, head_dim] with
            inner = head_dim it mixes heads.
        signs: False leaves the signs out.
    """

    def __init__(self, size: int, seed: str, inner: int = 1, signs: bool = True) -> None:
        if size % inner:
            raise ValueError(f"{size} columns are not groups of {inner}")
        self.size, self.seed, self.inner, self._signed = size, seed, inner, signs
        self._cast: dict[tuple[torch.device, torch.dtype], tuple[Tensor, list[Tensor], list[Tensor]]] = {}

    @cached_property
    def exponent(self) -> int:
        """Of the last factors' product, 2^exponent."""
        return factorize(self.size // self.inner)[0].count(2)

    @cached_property
    def dense(self) -> list[Tensor]:
        """The factors that are no powers of 2, float64; made on first use: models are built on the meta device."""
        return _dense_factors(self.size // self.inner, self.seed)

    @property
    def factors(self) -> list[Tensor]:
        """F1, F2, ..., orthogonal, float64: the dense ones, then Sylvester's."""
        return self.dense + _sylvester_factors(self.exponent)

    @cached_property
    def signs(self) -> Tensor:
        """The diagonal [n], float64."""
        source = random.Random(f"{self.seed}:signs")
        drawn = [1.0 - 2.0 * (source.random() < 0.5) * self._signed for _ in range(self.size // self.inner)]
        return torch.tensor(drawn, dtype=torch.float64).repeat_interleave(self.inner)

    def _on(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        key = (x.device, x.dtype)
        if key not in self._cast:
            self._cast[key] = (
                self.signs.to(*key),
                [factor.to(*key) for factor in self.dense],
                [factor.to(*key) for factor in _sylvester_factors(self.exponent)],
            )
        return self._cast[key]

    def apply(self, x: Tensor) -> Tensor:
        """x Q for x [..., n], in x's dtype."""
        signs, dense, _ = self._on(x)
        return self.sylvester_part(_kronecker(x * signs, dense))

    def apply_transposed(self, x: Tensor) -> Tensor:
        """x Q' for x [..., n]: the inverse of apply."""
        signs, dense, _ = self._on(x)
        return self.sylvester_part(_kronecker(x, [factor.t() for factor in dense])) * signs

    def sylvester_part(self, x: Tensor) -> Tensor:
        """The last factors, which are symmetric, on x [..., n]."""
        _, _, factors = self._on(x)
        rows = x.reshape(-1, self.inner << self.exponent)
        return _kronecker(rows, factors).reshape(x.shape)


def _kronecker(x: Tensor, factors: list[Tensor]) -> Tensor:
    """x (F1 x F2 x ... x I), one factor after another on its own axis; what no factor takes is the inner part."""
    shape, right = x.shape, x.shape[-1]
    for factor in factors:
        order = len(factor)
        right //= order
        x = factor.t() @ x.reshape(-1, order, right) if right > 1 else x.reshape(-1, order) @ factor
    return x.reshape(shape)
