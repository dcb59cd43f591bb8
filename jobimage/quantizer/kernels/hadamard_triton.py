"""The Triton kernels of hadamard, one for each part; both read and write every value once.

    butterflies   a program holds ROWS whole rows of P values, and passes log2(P) times over them in registers:
                  the tile is split into the two sides of a distance, and joined from their sum and difference
    small factor  a program holds [m, WIDTH] of a row's X [m, P], and multiplies it from the left with F'; m is
                  filled up to a power of two with zeros. A factor too large for that is left to torch's
                  matrix product.

Sums and differences leave nothing to contract, and the scaling is a product by itself, so the butterflies' order
and rounding are the twin's. The product with F is in full float32 ("ieee", no TF32).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantizer.kernels.hadamard import power_of_two

TILE = 4096  # values of a program, at least one row
WIDTH = 64
LARGEST_FACTOR = 128
VALUES_PER_WARP = 1024


@triton.jit  # type: ignore[untyped-decorator]
def butterflies_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, rows, scale, POWER: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr
):
    """x, y [rows, POWER]; POWER = 2^STEPS."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    offsets = row[:, None] * POWER + tl.arange(0, POWER)[None, :]
    inside = (row < rows)[:, None]
    tile = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    for step in tl.static_range(STEPS):
        sides = tile.reshape((ROWS * POWER // (2 << step), 2, 1 << step)).permute((0, 2, 1))
        a, b = tl.split(sides)
        tile = tl.join(a + b, a - b).permute((0, 2, 1)).reshape((ROWS, POWER))
    tl.store(y_ptr + offsets, (tile * scale).to(y_ptr.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def small_factor_kernel(  # type: ignore[no-untyped-def]
    x_ptr, factor_ptr, y_ptr, order, power, ORDER: tl.constexpr, WIDTH: tl.constexpr
):
    """x, y [rows, order, power], factor [order, order]: y = F' x for each row; ORDER is order, filled up."""
    start = tl.program_id(0).to(tl.int64) * order * power
    index = tl.arange(0, ORDER)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (index < order)[:, None] & (column < power)[None, :]
    offsets = index[:, None] * power + column[None, :]
    square = (index < order)[:, None] & (index < order)[None, :]
    turned = tl.load(factor_ptr + index[None, :] * order + index[:, None], mask=square, other=0.0)
    tile = tl.load(x_ptr + start + offsets, mask=inside, other=0.0)
    product = tl.dot(turned, tile, input_precision="ieee")
    tl.store(y_ptr + start + offsets, product.to(y_ptr.dtype.element_ty), inside)


def hadamard_transform(x: Tensor, factor: Tensor | None = None) -> Tensor:
    """See hadamard.hadamard_transform; x and the factor lie on one device."""
    power = power_of_two(x, factor)
    flat = x.reshape(-1, power).contiguous()
    if flat.numel() == 0:
        return torch.empty_like(x)
    type_between = x.dtype if factor is None else torch.float32
    rows = _butterflies(flat, type_between, power) if power > 1 else flat.to(type_between)
    if factor is not None:
        rows = _small_factor(rows.view(-1, factor.shape[0], power), factor.float(), x.dtype)
    return rows.view(x.shape)


def _butterflies(flat: Tensor, dtype: torch.dtype, power: int) -> Tensor:
    result = torch.empty_like(flat, dtype=dtype)
    rows = max(1, TILE // power)
    butterflies_kernel[(triton.cdiv(flat.shape[0], rows),)](
        flat,
        result,
        flat.shape[0],
        1.0 / math.sqrt(power),
        POWER=power,
        STEPS=power.bit_length() - 1,
        ROWS=rows,
        num_warps=min(16, rows * power // VALUES_PER_WARP),
    )
    return result


def _small_factor(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    rows, order, power = x.shape
    if order > LARGEST_FACTOR:
        return (factor.t() @ x).to(dtype)
    result = torch.empty_like(x, dtype=dtype)
    small_factor_kernel[(rows, triton.cdiv(power, WIDTH))](
        x,
        factor.contiguous(),
        result,
        order,
        power,
        ORDER=max(16, triton.next_power_of_2(order)),
        WIDTH=WIDTH,
    )
    return result
