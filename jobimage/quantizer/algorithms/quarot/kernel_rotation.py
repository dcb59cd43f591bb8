"""A rotation of the quantizer's own, which goes through the kernel where there is one."""

from torch import Tensor
from typing_extensions import override

from quantizer.algorithms.quarot.hadamard import Rotation
from quantizer.kernels.dispatch import uses_triton
from quantizer.kernels.hadamard import hadamard_transform


class KernelRotation(Rotation):
    """A Rotation whose part that is a power of two goes through the kernel on a GPU.

    The rotations of an artifact's own code are plain ones: it needs nothing but torch.
    """

    @override
    def sylvester_part(self, x: Tensor) -> Tensor:
        """Between heads, where the values of a row do not lie side by side, it is plain."""
        power = 2**self.exponent
        if power == 1 or self.inner > 1 or not uses_triton(x.device):
            return super().sylvester_part(x)
        return hadamard_transform(x.reshape(-1, power)).view(x.shape)
