"""A rounded weight, as the solvers hand it on."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rounded:
    """A rounded weight [N, K], columns as they lie in the checkpoint.

    integers [N, K] uint8; scales, zeros [N, G] float32; group_of [K] int32, the group of each column;
    damp_percent: the damping that was used, larger than asked for when H was too close to singular.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    group_of: Tensor
    damp_percent: float
