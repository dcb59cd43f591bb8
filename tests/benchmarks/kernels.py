"""Kernels beside their twins, and the twins beside plain torch: python tests/benchmarks/kernels.py

Each line is a ratio of times, the least of several runs that alternate in one process, and what the two results
have in common. On a machine without a GPU only the CPU's lines are printed; there the ratios hold for the
threads that torch uses (--threads), and on a busy machine one thread gives the steadier figures.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from quantizer.algorithms.gptq.feedback import BLOCK, factor_hessian
from quantizer.algorithms.grid import GridRule, fit_grid, round_to_grid
from quantizer.kernels import bit_packing
from quantizer.kernels.column_block import round_columns, round_columns_plain
from quantizer.kernels.gram import add_gram, add_gram_plain, fill_upper
from quantizer.kernels.hadamard import hadamard_transform, hadamard_transform_plain
from quantizer.kernels.packing import pack_bits

PANEL = 32
Block = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]


def torch_loop(
    block: Tensor, upper: Tensor, scales: Tensor, zeros: Tensor, g_idx: Tensor, maxq: int
) -> tuple[Tensor, Tensor]:
    """The column loop as one writes it in torch, with the twin's panels: what is beaten on the CPU."""
    block, errors = block.clone(), torch.empty_like(block)
    rounded = torch.empty(block.shape, dtype=torch.uint8, device=block.device)
    groups, diagonal = g_idx.tolist(), upper.diagonal().tolist()
    for panel in range(0, len(block), PANEL):
        stop = min(panel + PANEL, len(block))
        for column in range(panel, stop):
            weight, scale, zero = block[column], scales[groups[column]], zeros[groups[column]]
            integers = round_to_grid(weight, scale, zero, maxq)
            rounded[column] = integers
            error = (weight - (integers - zero) * scale).div_(diagonal[column])
            errors[column] = error
            if column + 1 < stop:
                block[column + 1 : stop] -= upper[column, column + 1 : stop].unsqueeze(1) * error
        block[stop:] -= upper[panel:stop, stop:].t() @ errors[panel:stop]
    return rounded, errors


def block_problem(rows: int, width: int, device: torch.device) -> Block:
    """A full block of a linear with that many outputs, in groups of `width`."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(BLOCK, rows, generator=generator) * 0.05
    inputs = torch.randn(4 * BLOCK, BLOCK, generator=generator)
    inputs[:, 1:] += 0.5 * inputs[:, :-1]
    hessian_factor, _ = factor_hessian(inputs.t() @ inputs / BLOCK, torch.arange(BLOCK), 0.01)
    factor = hessian_factor.inverse(0, BLOCK)
    groups = block.view(-1, width, rows)
    scales, zeros = fit_grid(groups.amin(1), groups.amax(1), GridRule(4, False))
    tensors = block, factor, scales, zeros, torch.arange(BLOCK) // width
    block, factor, scales, zeros, g_idx = (tensor.to(device) for tensor in tensors)
    return block, factor, scales, zeros, g_idx, 15


def seconds(fast: Callable[[], object], slow: Callable[[], object], limit: float) -> tuple[float, float]:
    """The least time of each, alternating for about `limit` seconds."""
    least = [float("inf"), float("inf")]
    fast(), slow()  # compilation and first use
    end = time.perf_counter() + limit
    while time.perf_counter() < end or least[1] == float("inf"):
        for index, function in enumerate((fast, slow)):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            least[index] = min(least[index], time.perf_counter() - start)
    return least[0], least[1]


def show(title: str, fast: Callable[[], object], slow: Callable[[], object], same: str, limit: float) -> None:
    """One line."""
    ours, theirs = seconds(fast, slow, limit)
    print(
        f"  {title:44s} {theirs / ours:7.2f} x   {ours * 1e3:9.3f} ms beside {theirs * 1e3:9.3f} ms   {same}"
    )


def agreement(one: Tensor, other: Tensor) -> str:
    """How far two results agree."""
    different = int((one.cpu() != other.cpu()).sum())
    return "equal" if different == 0 else f"{different} of {one.numel()} differ"


def on_the_cpu(limit: float) -> None:
    """The twins beside plain torch."""
    print(
        f"CPU, {torch.get_num_threads()} threads: the twin of the column block beside a loop of torch calls"
    )
    for rows, width in ((288, 32), (864, 32), (1536, 32), (4096, 128), (12288, 128)):
        block = block_problem(rows, width, torch.device("cpu"))
        same = agreement(round_columns_plain(*block)[0], torch_loop(*block)[0])
        title = f"{rows} outputs, groups of {width}"
        show(title, partial(round_columns_plain, *block), partial(torch_loop, *block), same, limit)
    print("CPU: half of the Gram matrix of 2048 tokens beside the whole product")
    for width in (288, 768, 2048):
        x = torch.randn(2048, width, generator=torch.Generator().manual_seed(0))
        half, whole = torch.zeros(width, width), torch.zeros(width, width)
        add_gram(half, x)
        add_gram_plain(whole, x)
        fill_upper(half)
        same = agreement(half, whole)
        show(
            f"{width} inputs",
            partial(add_gram, half, x),
            partial(add_gram_plain, whole, x),
            same,
            limit,
        )


def on_the_gpu(limit: float) -> None:
    """The Triton kernels beside their twins; the twin of the column block works on the CPU."""
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}: Triton beside the twins")
    for rows in (4096, 28672):
        block = block_problem(rows, 128, device)
        same = agreement(round_columns(*block)[0], round_columns_plain(*block, panel=BLOCK)[0])
        title = f"column block, {rows} outputs"
        show(title, partial(round_columns, *block), partial(torch_loop, *block), same, limit)
    for bits in (3, 4):
        values = torch.randint(0, 2**bits, (4096, 4096), dtype=torch.uint8, device=device)
        packed = pack_bits(values, bits)
        show(
            f"packing, {bits} bits, 4096 x 4096",
            partial(pack_bits, values, bits),
            partial(bit_packing.pack_bits, values, bits),
            agreement(packed, bit_packing.pack_bits(values, bits)),
            limit,
        )
    for power, dtype in ((4096, torch.float16), (512, torch.float64)):
        x = torch.randn(4096, power, device=device, dtype=dtype)
        show(
            f"Hadamard transform, {power} columns of {dtype}",
            partial(hadamard_transform, x),
            partial(hadamard_transform_plain, x),
            agreement(hadamard_transform(x), hadamard_transform_plain(x)),
            limit,
        )


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU; default: torch's choice")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each line")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    on_the_cpu(options.seconds)
    if torch.cuda.is_available():
        on_the_gpu(options.seconds)


if __name__ == "__main__":
    main()
