"""The Triton kernel of column_block: one launch a block of columns, no communication between programs.

    grid        ceil(N / ROWS) programs of one warp; rows (outputs) are independent, so a program owns ROWS
                of them from the first column to the last
    registers   the block [128, ROWS], read once from memory; 128 x 8 values are 32 a thread
    a column    is picked out of the registers by a masked sum (exact: all other terms are 0), rounded, and
                its error is subtracted from the registers with one row of U; U is triangular, so the columns
                that are done get 0
    memory      a column's integers and errors are stored when they are made; U (64 KiB, shared by all
                programs), scales and zeros come from the caches

A warp never waits for another: the sum over columns is a sum in a thread and shuffles within the warp.

The arithmetic is the twin's, operation by operation: quotients are rounded to nearest (div_rn), and the
launch turns off the contraction of a product and a difference into one fused multiply-add, which would
round once where the twin rounds twice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 8
LAUNCH = {"num_warps": 1, "enable_fp_fusion": False}


@triton.jit
def _round_half_to_even(value):  # type: ignore[no-untyped-def]
    # 1.5 * 2^23: a sum of that size keeps no fraction, and rounding to nearest even drops it. Exact below 2^22.
    magic = 12582912.0
    return (value + magic) - magic


@triton.jit  # type: ignore[untyped-decorator]
def round_columns_kernel(  # type: ignore[no-untyped-def]
    block_ptr,
    factor_ptr,
    scales_ptr,
    zeros_ptr,
    group_of_ptr,
    integers_ptr,
    errors_ptr,
    before_ptr,
    rows,
    columns,
    factor_stride,
    maxq,
    HAS_BEFORE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """block, integers, errors, before [columns, rows]; factor [columns, columns]; scales, zeros [G, rows]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = row < rows
    offsets = column[:, None] * rows + row[None, :]
    block = tl.load(block_ptr + offsets, mask=(column < columns)[:, None] & inside[None, :], other=0.0)
    for j in range(columns):
        weight = tl.sum(tl.where(column[:, None] == j, block, 0.0), axis=0)
        grid = tl.load(group_of_ptr + j).to(tl.int64) * rows + row
        scale = tl.load(scales_ptr + grid, mask=inside, other=1.0)
        zero = tl.load(zeros_ptr + grid, mask=inside, other=0.0)
        # A level beyond 2 maxq is clipped in any case; clipped before, it is small enough to be rounded.
        level = tl.minimum(tl.maximum(tl.div_rn(weight, scale), -2.0 * maxq), 2.0 * maxq)
        level = tl.minimum(tl.maximum(_round_half_to_even(level), -zero), maxq - zero)
        before = tl.load(before_ptr + j * rows + row, mask=inside, other=0.0) if HAS_BEFORE else weight
        error = tl.div_rn(before - level * scale, tl.load(factor_ptr + j * factor_stride + j))
        tl.store(integers_ptr + j * rows + row, (level + zero).to(tl.uint8), mask=inside)
        tl.store(errors_ptr + j * rows + row, error, mask=inside)
        later = (column > j) & (column < columns)
        influence = tl.load(factor_ptr + j * factor_stride + column, mask=later, other=0.0)
        block -= influence[:, None] * error[None, :]


def round_columns(
    block: Tensor,
    factor: Tensor,
    scales: Tensor,
    zeros: Tensor,
    g_idx: Tensor,
    maxq: int,
    before: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See column_block.round_columns; all tensors lie on one device."""
    columns, rows = block.shape
    block, scales, zeros = block.contiguous(), scales.contiguous(), zeros.contiguous()
    integers = torch.empty((columns, rows), dtype=torch.uint8, device=block.device)
    errors = torch.empty_like(block)
    round_columns_kernel[(triton.cdiv(rows, ROWS),)](
        block,
        factor if factor.stride(1) == 1 else factor.contiguous(),
        scales,
        zeros,
        g_idx.to(torch.int32).contiguous(),
        integers,
        errors,
        block if before is None else before.contiguous(),
        rows,
        columns,
        factor.stride(0) if factor.stride(1) == 1 else columns,
        maxq,
        HAS_BEFORE=before is not None,
        COLUMNS=triton.next_power_of_2(columns),
        ROWS=ROWS,
        **LAUNCH,
    )
    return integers, errors
