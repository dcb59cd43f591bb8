"""Tensors that are stored in few bits and stand for others: rows of them, decoded exactly.

Each is multiplied in float32, where the product of a number and its scale is exact or rounded once, and then
converted to the type of the model. So does transformers, bit by bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quantizer.checkpoint.reader import TensorInfo

Read = Callable[[TensorInfo, int, int], Tensor]
"""Reads rows [first, last) along dimension 0 of a tensor that lies in a file."""

FP4_PAIR_BYTES = 16
"""Of a block of MXFP4: 32 numbers, two in a byte."""
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three bits of a code stand for; the fourth is the sign."""


class Encoding(Protocol):
    """A tensor in few bits."""

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The tensors of the checkpoint that it is made of; it takes the place of the first."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it stands for."""
        ...

    def decoded(self, read: Read, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """Rows [first, last) of what it stands for."""
        ...


@dataclass(frozen=True)
class ScaledFp8:
    """A weight [N, K] in FP8 with a scale for each block of rows and columns; blocks at the edges may be cut."""

    numbers: TensorInfo
    scales: TensorInfo
    """With the shape of the grid of blocks: [ceil(N / rows), ceil(K / columns)]."""
    block: tuple[int, int]
    """Rows and columns that share a scale."""
    rounds_first: bool = False
    """Whether products are rounded to the type of the scales, as compressed-tensors computes them."""

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """See Encoding."""
        return self.numbers, self.scales

    @property
    def shape(self) -> tuple[int, ...]:
        """See Encoding."""
        return self.numbers.shape

    def decoded(self, read: Read, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """See Encoding."""
        height, width = self.block
        top = first // height
        scales = _real(read(self.scales, top, -(-last // height)))
        if scales.shape[1] > 1:
            scales = scales.repeat_interleave(width, dim=1)[:, : self.shape[1]]
        weight = read(self.numbers, first, last).float()
        weight *= scales[torch.arange(first, last) // height - top]
        return (weight.to(self.scales.dtype) if self.rounds_first else weight).to(dtype)


@dataclass(frozen=True)
class Mxfp4:
    """The weights of experts in MXFP4: blocks [experts, N, G, 16] and their scales [experts, N, G].

    They stand for [experts, 32 G, N], as transformers has experts in one tensor.
    """

    blocks: TensorInfo
    scales: TensorInfo

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """See Encoding."""
        return self.blocks, self.scales

    @property
    def shape(self) -> tuple[int, ...]:
        """See Encoding."""
        experts, rows, groups, pairs = self.blocks.shape
        return experts, groups * pairs * 2, rows

    def decoded(self, read: Read, first: int, last: int, dtype: torch.dtype) -> Tensor:
        """See Encoding."""
        numbers = _fp4_pairs()[read(self.blocks, first, last).int()].flatten(-2)
        numbers *= _real(read(self.scales, first, last))[..., None]
        return numbers.flatten(-2).transpose(1, 2).to(dtype).contiguous()


def _fp4_pairs() -> Tensor:
    """The two numbers in each byte, the lower bits' first: [256, 2] float32."""
    numbers = torch.tensor([*FP4, *(-number for number in FP4)])
    codes = torch.arange(256)
    return torch.stack((numbers[codes % 16], numbers[codes // 16]), dim=1)


def _real(scales: Tensor) -> Tensor:
    """Scales as float32; bytes are exponents."""
    return (scales.view(torch.float8_e8m0fnu) if scales.dtype is torch.uint8 else scales).float()
