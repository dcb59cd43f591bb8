"""The Triton kernel of hadamard; it reads and writes every value once.

A program holds ROWS whole rows of P values, and passes log2(P) times over them in registers: the tile is split into
the two sides of a distance, and joined from their sum and difference. Sums and differences leave nothing to contract,
and the scaling is a product by itself, so order and rounding are the twin's.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # values of a program, at least one row
VALUES_PER_WARP = 1024


@triton.jit  # type: ignore[untyped-decorator]
def butterflies_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, scale_ptr, rows, POWER: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr
):
    """x, y [rows, POWER]; POWER = 2^STEPS; scale: one value, of the type that is computed in."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    offsets = row[:, None] * POWER + tl.arange(0, POWER)[None, :]
    inside = (row < rows)[:, None]
    scale = tl.load(scale_ptr)
    tile = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(scale_ptr.dtype.element_ty)
    for step in tl.static_range(STEPS):
        sides = tile.reshape((ROWS * POWER // (2 << step), 2, 1 << step)).permute((0, 2, 1))
        a, b = tl.split(sides)
        tile = tl.join(a + b, a - b).permute((0, 2, 1)).reshape((ROWS, POWER))
    tl.store(y_ptr + offsets, (tile * scale).to(y_ptr.dtype.element_ty), inside)


def hadamard_transform(x: Tensor, sums: torch.dtype) -> Tensor:
    """See hadamard.hadamard_transform. sums: the type of the sums."""
    power = x.shape[-1]
    flat = x.reshape(-1, power).contiguous()
    result = torch.empty_like(flat)
    rows = max(1, TILE // power)
    if flat.numel():
        butterflies_kernel[(triton.cdiv(flat.shape[0], rows),)](
            flat,
            result,
            torch.tensor([1.0 / math.sqrt(power)], dtype=sums, device=x.device),
            flat.shape[0],
            POWER=power,
            STEPS=power.bit_length() - 1,
            ROWS=rows,
            num_warps=min(16, max(1, rows * power // VALUES_PER_WARP)),
        )
    return result.view(x.shape)
