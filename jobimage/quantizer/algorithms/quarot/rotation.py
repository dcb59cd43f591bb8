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

All of this is computed in float64 and cast once by the caller.
"""

import random
from typing import Protocol

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quarot.kernel_rotation import KernelRotation
from quantizer.algorithms.quarot.rotation_layout import PLUS_ONE, HeadSite, LayerLayout, NormKind, NormSite

Weights = dict[str, Tensor]
"""Tensors by name, as in a checkpoint: "self_attn.v_proj.weight"."""


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


def fuse_norm(weights: Weights, norm: NormSite) -> None:
    """Folds a norm's weight into its readers, in place (entries are replaced, in float64).

    A LayerNorm's bias goes into the readers' biases. When a reader has none, all of it stays in the norm,
    divided by the weight that left it: (b / w) (W diag w)' = b W'.

    Raises:
        QuantizationError: ModelUnsupported when it has to stay and a weight is zero where the bias is not.
    """
    if (stored := weights.get(f"{norm.name}.weight")) is None:
        return
    scale = norm_weight(norm.kind, stored)
    bias = weights.get(f"{norm.name}.bias")
    to_readers = bias is not None and all(f"{reader}.bias" in weights for reader in norm.readers)
    for reader in norm.readers:
        matrix = weights[f"{reader}.weight"].double()
        if bias is not None and to_readers:
            weights[f"{reader}.bias"] = weights[f"{reader}.bias"].double() + matrix @ bias.double()
        weights[f"{reader}.weight"] = matrix * scale
    weights[f"{norm.name}.weight"] = neutral_weight(norm.kind, stored.double())
    if bias is not None:
        kept = torch.zeros_like(bias.double()) if to_readers else folded_bias(norm.name, scale, bias)
        weights[f"{norm.name}.bias"] = kept


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


def rotate_stream(weights: Weights, layout: LayerLayout, residual: Orthogonal) -> None:
    """R1 on a layer whose norms are fused, in place, in float64."""
    for norm in layout.norms:
        for reader in norm.readers:
            name = f"{reader}.weight"
            weights[name] = residual.apply(weights[name].double())
        if (name := f"{norm.name}.bias") in weights:
            weights[name] = residual.apply(weights[name].double())
    for writer in layout.writers:
        name = f"{writer}.weight"
        weights[name] = residual.apply(weights[name].double().t()).t()
        if (name := f"{writer}.bias") in weights:
            weights[name] = residual.apply(weights[name].double())
    for name in layout.shifts:
        weights[name] = residual.apply(weights[name].double())


def rotate_values(weights: Weights, site: HeadSite, values: Orthogonal) -> None:
    """R2 on a layer, in place, in float64: each head's values, undone in the output linear."""
    name = f"{site.value}.weight"
    matrix = weights[name].double().clone()
    bias = weights.get(f"{site.value}.bias")
    bias = None if bias is None else bias.double().clone()
    for first in site.value_rows:
        rows = slice(first, first + site.head_dim)
        matrix[rows] = values.apply(matrix[rows].t()).t()
        if bias is not None:
            bias[rows] = values.apply(bias[rows])
    weights[name] = matrix
    if bias is not None:
        weights[f"{site.value}.bias"] = bias
    name = f"{site.output}.weight"
    output = weights[name].double()
    by_head = output.view(len(output), site.heads, site.head_dim)
    weights[name] = values.apply(by_head).reshape(output.shape)


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
