"""Rounding one block of columns with error feedback (GPTQ, arXiv 2210.17323, algorithm 1, inner loop).

For column j of the block, with w its weights as they are after the columns before it:

    level = clamp(round(w / scale), -zero, maxq - zero)      integer = level + zero
    error = (w - level * scale) / U[j, j]
    w of every later column i of the block  -=  U[j, i] * error

Every product, difference and quotient is rounded by itself (no fused multiply-add, no reciprocal), halves
go to the even integer. What is left open is only when an error reaches a later column. Inside a panel it
is subtracted at once; to the columns after the panel the errors of a panel go as one matrix product, which
sums them in the order of the BLAS in use. So, on the same input:

* with `panel` not smaller than the block no product is left, and integers and errors equal those of the
  Triton kernel bit for bit, on every machine;
* with the default panel the integers equal the kernel's but for ties: a quotient w / scale that lies so
  near to a half that the last bits of the sums decide. One tie also changes what the row's later columns
  see, so the number of rows that differ counts the ties, not the number of integers.

The twin works on the CPU wherever its tensors lie. It calls NumPy on views of them for the steps of a
column: a column is so short that the time is that of the calls, and NumPy's cost about half of torch's.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quantizer.kernels.dispatch import uses_triton

PANEL = 32

_Array: TypeAlias = npt.NDArray[np.float32]


def round_columns(
    block: Tensor,
    factor: Tensor,
    scales: Tensor,
    zeros: Tensor,
    g_idx: Tensor,
    maxq: int,
    before: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Rounds a block of the transposed working weights by the faster of kernel and twin; changes no argument.

    Args:
        block: [C, N] float32, contiguous, C <= 128: C columns of a linear with N outputs.
        factor: [C, C] float32, the block's part of the upper factor U; may be a view of all of it.
        scales, zeros: [G, N] float32, the grids of all groups; zeros hold integers.
        g_idx: [C] the group of each column, in any order.
        maxq: the largest integer, 2^bits - 1.
        before: [C, N] float32, what the error of a column is counted from; by default its weight w, as in GPTQ.

    Returns:
        integers [C, N] uint8, and the errors divided by the factor's diagonal [C, N] float32.
    """
    if uses_triton(block.device):
        from quantizer.kernels import column_block_triton

        return column_block_triton.round_columns(block, factor, scales, zeros, g_idx, maxq, before)
    return round_columns_plain(block, factor, scales, zeros, g_idx, maxq, before)


def round_columns_plain(
    block: Tensor,
    factor: Tensor,
    scales: Tensor,
    zeros: Tensor,
    g_idx: Tensor,
    maxq: int,
    before: Tensor | None = None,
    panel: int = PANEL,
) -> tuple[Tensor, Tensor]:
    """The twin of the kernel: as round_columns; `panel` columns share one product for the columns after them."""
    device, columns = block.device, block.shape[0]
    upper = factor.cpu()
    groups = g_idx.tolist()
    present = sorted(set(groups))
    place = {group: index for index, group in enumerate(present)}
    local = [place[group] for group in groups]
    scale, zero = scales[present].cpu(), zeros[present].cpu()
    work = block.cpu() if device.type != "cpu" else block.clone()
    origin = work if before is None else before.cpu()
    errors, levels = torch.empty_like(work), torch.empty_like(work)
    for start in range(0, columns, panel):
        end = min(start + panel, columns)
        _round_panel(
            work[start:end].numpy(),
            origin[start:end].numpy(),
            upper[start:end, start:end].numpy(),
            scale.numpy(),
            (-zero).numpy(),
            (maxq - zero).numpy(),
            local[start:end],
            levels[start:end].numpy(),
            errors[start:end].numpy(),
        )
        if end < columns:
            work[end:].addmm_(upper[start:end, end:].t(), errors[start:end], alpha=-1)
    integers = levels.add_(zero if len(present) == 1 else zero[local]).to(torch.uint8)
    return integers.to(device), errors.to(device)


@np.errstate(all="ignore")  # silent as torch is: callers check whether the result is finite
def _round_panel(
    work: _Array,
    before: _Array,
    upper: _Array,
    scales: _Array,
    lowest: _Array,
    highest: _Array,
    g_idx: list[int],
    levels: _Array,
    errors: _Array,
) -> None:
    """Fills levels and errors [P, N]; `work` [P, N] is used up. lowest, highest [G, N]: the levels of a grid."""
    update = np.empty_like(work)
    columns = zip(work, before, g_idx, levels, errors, strict=True)
    for column, (weight, origin, group, level, error) in enumerate(columns):
        scale = scales[group]
        np.divide(weight, scale, out=level)
        np.rint(level, out=level)
        np.maximum(level, lowest[group], out=level)
        np.minimum(level, highest[group], out=level)
        np.multiply(level, scale, out=error)
        np.subtract(origin, error, out=error)
        np.divide(error, upper[column, column], out=error)
        later = work[column + 1 :]
        if len(later):
            product = update[: len(later)]
            np.multiply(upper[column, column + 1 :, None], error, out=product)
            np.subtract(later, product, out=later)
