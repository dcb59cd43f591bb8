"""Rotations that leave a decoder's function as it is (QuaRot, arXiv 2404.00456, section 4).

With Q orthogonal and |xQ| = |x|, an RMSNorm without weights commutes with Q; so after its weights are
folded into the linears that read it, the whole residual stream can be turned by Q (R1): embedding rows
become e Q, readers W Q, writers Q' W and their biases b Q. A LayerNorm also subtracts the mean of x. It
commutes with those Q that keep the mean's direction, 1 Q = 1 (MeanPreserving), so such models stay
ordinary checkpoints of their architecture as well.

R2 turns the values of each head: V and its bias, undone in the output linear. Biases need no exception:
attention weights sum to one.

Online rotations act on activations while the model runs, and only where something is quantized:

    keys   R3   q and k after RoPE, head by head; scores q k' are unchanged
    heads       the input of the attention's output linear, across heads: x (H x I)
    down   R4   the input of the MLP's down linear

Why this split before the output linear: H x R2 mixes all of its inputs. R2 acts on one head's values,
which are linear in V, so it costs nothing offline; the part across heads cannot be moved into V, because
each head weights its tokens differently. Online costs heads * (small factors) * head_dim and not
width * (factors of width).

All of this is computed in float64, one tensor at a time, and cast once by the caller.
"""

import random
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quarot.kernel_rotation import KernelRotation
from quantizer.algorithms.quarot.rotation_layout import PLUS_ONE, HeadSite, LayerLayout, NormKind, NormSite


class Orthogonal(Protocol):
    """An orthogonal matrix Q applied to rows."""

    size: int

    def apply(self, x: Tensor) -> Tensor:
        """x Q."""

    def apply_transposed(self, x: Tensor) -> Tensor:
        """x Q'."""


class MeanPreserving:
    """A seeded orthogonal matrix with 1 Q = 1: Q = H (1 + D P) H'.

    H has a constant first column, so 1 H is a multiple of the first unit vector; D P, a seeded signed
    permutation of the other coordinates, leaves it alone. An outlier is spread about as by a random
    orthogonal matrix, at the cost of two fast Hadamard products.
    """

    def __init__(self, size: int, seed: str) -> None:
        self.size = size
        self._hadamard = KernelRotation(size, seed, signs=False)
        source = random.Random(f"{seed}:permutation")
        order = list(range(1, size))
        source.shuffle(order)
        self._order = torch.tensor([0, *order])
        drawn = [1.0 - 2.0 * (source.random() < 0.5) for _ in range(size - 1)]
        self._signs = torch.tensor([1.0, *drawn], dtype=torch.float64)

    def apply(self, x: Tensor) -> Tensor:
        """x Q for x [..., n]."""
        turned = self._hadamard.apply(x)[..., self._order.to(x.device)]
        return self._hadamard.apply_transposed(turned * self._signs.to(x))

    def apply_transposed(self, x: Tensor) -> Tensor:
        """x Q' for x [..., n]: the inverse of apply."""
        turned = self._hadamard.apply(x) * self._signs.to(x)
        inverse = torch.argsort(self._order).to(x.device)
        return self._hadamard.apply_transposed(turned[..., inverse])


def norm_weight(kind: NormKind, weight: Tensor) -> Tensor:
    """What a norm multiplies with, in float64."""
    return weight.double() + 1.0 if kind in PLUS_ONE else weight.double()


def neutral_weight(kind: NormKind, weight: Tensor) -> Tensor:
    """The stored weight of a norm that multiplies with one."""
    return torch.zeros_like(weight) if kind in PLUS_ONE else torch.ones_like(weight)


class Turned:
    """The tensors of a layer, and what is still to be done to each of them in float64.

    Each is computed when it is asked for, so that no more than one of them exists in float64.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._steps: dict[str, list[Step]] = {}

    def stored(self, name: str) -> Tensor | None:
        """A tensor before anything is done to it; None where there is none."""
        return self._weights.get(name)

    def then(self, name: str, step: "Step") -> None:
        """One more thing to do to a tensor, behind the others."""
        if name not in self._weights:
            raise KeyError(name)
        self._steps.setdefault(name, []).append(step)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._weights[name]
        for step in self._steps.get(name, ()):
            tensor = step(tensor.double())
        return tensor


Step = Callable[[Tensor], Tensor]
"""What is done to a tensor in float64, which it leaves as it is."""


def fuse_norm(weights: Turned, norm: NormSite) -> None:
    """Folds a norm's weight into its readers.

    A LayerNorm's bias goes into the readers' biases. When a reader has none, all of it stays in the norm,
    divided by the weight that left it: (b / w) (W diag w)' = b W'.

    Raises:
        QuantizationError: ModelUnsupported when it has to stay and a weight is zero where the bias is not.
    """
    if (stored := weights.stored(f"{norm.name}.weight")) is None:
        return
    scale = norm_weight(norm.kind, stored)
    bias = weights.stored(f"{norm.name}.bias")
    biased = (weights.stored(f"{reader}.bias") is not None for reader in norm.readers)
    to_readers = bias is not None and all(biased)
    for reader in norm.readers:
        if bias is not None and to_readers:
            weights.then(f"{reader}.bias", _with_bias(weights, f"{reader}.weight", bias))
        weights.then(f"{reader}.weight", lambda matrix: matrix * scale)
    weights.then(f"{norm.name}.weight", lambda weight: neutral_weight(norm.kind, weight))
    if bias is not None:
        kept = torch.zeros_like(bias.double()) if to_readers else folded_bias(norm.name, scale, bias)
        weights.then(f"{norm.name}.bias", lambda _: kept)


def _with_bias(weights: Turned, reader: str, bias: Tensor) -> Step:
    """Adds what a reader, as it is stored, makes of a norm's bias."""

    def added(own: Tensor) -> Tensor:
        matrix = weights.stored(reader)
        assert matrix is not None
        return own + matrix.double() @ bias.double()

    return added


def folded_bias(name: str, scale: Tensor, bias: Tensor) -> Tensor:
    """b / w in float64: the bias of a norm whose weight was folded into linears without a bias."""
    lost = (scale == 0) & (bias != 0)
    if bool(lost.any()):
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"{name} has a weight that is zero where its bias is not, so it cannot be folded into linears "
            "without a bias",
            "Set rotate: false, or use GptqQuantizer or AutoAWQQuantizer.",
        )
    return torch.where(bias == 0, 0.0, bias.double() / torch.where(scale == 0, 1.0, scale))


def rotate_stream(weights: Turned, layout: LayerLayout, residual: Orthogonal) -> None:
    """R1 on a layer whose norms are fused."""
    for norm in layout.norms:
        for reader in norm.readers:
            weights.then(f"{reader}.weight", residual.apply)
        if weights.stored(f"{norm.name}.bias") is not None:
            weights.then(f"{norm.name}.bias", residual.apply)
    for writer in layout.writers:
        weights.then(f"{writer}.weight", lambda matrix: residual.apply(matrix.t()).t())
        if weights.stored(f"{writer}.bias") is not None:
            weights.then(f"{writer}.bias", residual.apply)
    for name in layout.shifts:
        weights.then(name, residual.apply)


def rotate_values(weights: Turned, site: HeadSite, values: Orthogonal) -> None:
    """R2 on a layer: each head's values, undone in the output linear."""

    def turned(matrix: Tensor) -> Tensor:
        matrix = matrix.clone()
        for first in site.value_rows:
            rows = slice(first, first + site.head_dim)
            matrix[rows] = values.apply(matrix[rows].t()).t()
        return matrix

    def turned_bias(bias: Tensor) -> Tensor:
        bias = bias.clone()
        for first in site.value_rows:
            rows = slice(first, first + site.head_dim)
            bias[rows] = values.apply(bias[rows])
        return bias

    def undone(output: Tensor) -> Tensor:
        by_head = output.view(len(output), site.heads, site.head_dim)
        return values.apply(by_head).reshape(output.shape)

    weights.then(f"{site.value}.weight", turned)
    if weights.stored(f"{site.value}.bias") is not None:
        weights.then(f"{site.value}.bias", turned_bias)
    weights.then(f"{site.output}.weight", undone)


def rotate_hessian(hessian: Tensor, online: Orthogonal) -> Tensor:
    """R' H R: the Hessian of the rotated input x R, from that of x [K, K]."""
    turned = online.apply(hessian.double())
    return online.apply(turned.t()).to(hessian.dtype)


def rotate_input(weight: Tensor, online: Orthogonal) -> Tensor:
    """W R [N, K]: the weight that reads the rotated input x R."""
    return online.apply(weight.double()).to(weight.dtype)


def restore_input(weight: Tensor, online: Orthogonal) -> Tensor:
    """W R' [N, K]: the weight that does to x what `weight` does to x R; propagation needs no online operation."""
    return online.apply_transposed(weight.double()).to(weight.dtype)
