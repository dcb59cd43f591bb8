"""The block of GPTQ's inner loop: the Triton kernel, its twin and the paper's loop give the same integers."""

import pytest
import torch
from tests.support.triton_kernels import DEVICES, run_on
from torch import Tensor

from quantizer.algorithms.gptq.feedback import factor_hessian
from quantizer.algorithms.grid import GridRule, fit_grid, round_to_grid
from quantizer.kernels import column_block, column_block_triton
from quantizer.kernels.column_block import round_columns_plain

pytestmark = pytest.mark.unit

Block = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]


def natural(columns: int, width: int) -> Tensor:
    """Groups as they lie."""
    return torch.arange(columns) // width


def shuffled(columns: int, width: int) -> Tensor:
    """Groups of columns that were sorted by activation."""
    return natural(columns, width)[torch.randperm(columns, generator=torch.Generator().manual_seed(7))]


def problem(rows: int, g_idx: Tensor, bits: int = 4, sym: bool = False, seed: int = 0) -> Block:
    """A block of columns with the factor of correlated inputs; the grids are a little too narrow, so some clip."""
    generator = torch.Generator().manual_seed(seed)
    columns, rule = len(g_idx), GridRule(bits, sym)
    block = torch.randn(columns, rows, generator=generator) * 0.05
    inputs = torch.randn(4 * columns, columns, generator=generator)
    inputs = inputs @ (torch.eye(columns) + 0.1 * torch.randn(columns, columns, generator=generator))
    hessian_factor, _ = factor_hessian(inputs.t() @ inputs / columns, torch.arange(columns), 0.01)
    factor = hessian_factor.inverse(0, columns)
    grids = [
        fit_grid(block[g_idx == group].amin(0) * 0.9, block[g_idx == group].amax(0) * 0.9, rule)
        for group in range(int(g_idx.max()) + 1)
    ]
    scales, zeros = torch.stack([grid[0] for grid in grids]), torch.stack([grid[1] for grid in grids])
    return block, factor, scales, zeros, g_idx, rule.maxq


def papers_loop(
    block: Tensor, factor: Tensor, scales: Tensor, zeros: Tensor, g_idx: Tensor, maxq: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1, one column after another, each error spread at once."""
    work, integers, errors = block.clone(), torch.empty_like(block), torch.empty_like(block)
    for j in range(len(block)):
        scale, zero = scales[g_idx[j]], zeros[g_idx[j]]
        integers[j] = round_to_grid(work[j], scale, zero, maxq)
        errors[j] = (work[j] - (integers[j] - zero) * scale) / factor[j, j]
        work[j + 1 :] -= factor[j, j + 1 :].unsqueeze(1) * errors[j]
    return integers.to(torch.uint8), errors


SHAPES = {
    "one group of a whole block": (24, natural(128, 128)),
    "groups of 32": (24, natural(128, 32)),
    "rows that do not fill a program": (13, natural(128, 64)),
    "one row": (1, natural(128, 64)),
    "a short last block": (16, natural(72, 32)),
    "a block of one column": (9, natural(1, 32)),
    "columns sorted by activation": (16, shuffled(128, 32)),
    "a short block of sorted columns": (11, shuffled(40, 8)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_kernel_and_twin_agree_bit_by_bit(device: str, shape: str) -> None:
    block = problem(*SHAPES[shape])
    integers, errors = run_on(device, column_block_triton.round_columns, *block)
    expected = round_columns_plain(*block, panel=128)
    assert torch.equal(integers, expected[0])
    assert torch.equal(errors, expected[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("device", DEVICES)
def test_errors_are_counted_from_other_values_where_such_are_given(device: str, shape: str) -> None:
    block, factor, *grids = problem(*SHAPES[shape])
    before = block + 0.01 * torch.randn(block.shape, generator=torch.Generator().manual_seed(1))
    factor = factor / factor.diagonal().unsqueeze(1)
    ours = round_columns_plain(block, factor, *grids, before, panel=128)
    work, (scales, zeros, g_idx, maxq) = block.clone(), grids
    for j in range(len(block)):
        integers = round_to_grid(work[j], scales[g_idx[j]], zeros[g_idx[j]], maxq)
        error = before[j] - (integers - zeros[g_idx[j]]) * scales[g_idx[j]]
        work[j + 1 :] -= factor[j, j + 1 :].unsqueeze(1) * error
        assert torch.equal(ours[0][j], integers.to(torch.uint8))
        assert torch.equal(ours[1][j], error)
    kernels = run_on(device, column_block_triton.round_columns, block, factor, *grids, before)
    assert torch.equal(kernels[0], ours[0])
    assert torch.equal(kernels[1], ours[1])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_kernel_and_twin_agree_at_every_width(device: str, sym: bool, bits: int) -> None:
    block = problem(16, natural(64, 32), bits, sym)
    integers, errors = run_on(device, column_block_triton.round_columns, *block)
    expected = round_columns_plain(*block, panel=128)
    assert torch.equal(integers, expected[0])
    assert torch.equal(errors, expected[1])
    assert {0, 2**bits - 1} <= set(integers.flatten().tolist())  # the clipped ones are among them


@pytest.mark.parametrize("shape", SHAPES)
def test_the_twin_without_panels_is_the_papers_loop(shape: str) -> None:
    block = problem(*SHAPES[shape])
    for ours, papers in zip(round_columns_plain(*block, panel=128), papers_loop(*block), strict=True):
        assert torch.equal(ours, papers)


@pytest.mark.parametrize("panel", [1, 8, 32, 48])
def test_panels_change_no_more_than_ties(panel: int) -> None:
    block = problem(512, natural(128, 32), seed=3)
    integers, errors = round_columns_plain(*block, panel=panel)
    whole = round_columns_plain(*block, panel=128)
    same = (integers == whole[0]).all(dim=0)
    assert int((~same).sum()) <= 2  # rows of 512 with a tie
    assert torch.allclose(errors[:, same], whole[1][:, same], atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_halves_go_to_the_even_integer(device: str) -> None:
    block = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5]])
    one = torch.ones(1, 5)
    arguments = (block, torch.ones(1, 1), one, one * 8, torch.zeros(1, dtype=torch.int64), 15)
    assert run_on(device, column_block_triton.round_columns, *arguments)[0].tolist() == [[8, 10, 10, 8, 6]]
    assert round_columns_plain(*arguments)[0].tolist() == [[8, 10, 10, 8, 6]]


@pytest.mark.parametrize("device", DEVICES)
def test_a_weight_that_is_not_finite_stays_visible_in_the_errors_of_its_row_only(device: str) -> None:
    block = problem(16, natural(64, 32))
    block[0][3, 5] = float("nan")
    for errors in (
        run_on(device, column_block_triton.round_columns, *block)[1],
        round_columns_plain(*block)[1],
    ):
        assert bool(errors[3:, 5].isnan().all())
        assert bool(errors[:, :5].isfinite().all())


@pytest.mark.parametrize("device", DEVICES)
def test_a_part_of_a_larger_factor_is_read_in_place(device: str) -> None:
    block, factor, scales, zeros, g_idx, maxq = problem(8, natural(64, 32))
    grids = scales, zeros, g_idx, maxq
    large = torch.full((200, 200), float("nan"))
    large[100:164, 100:164] = factor
    part = large[100:164, 100:164]
    expected = round_columns_plain(block, factor, *grids)[0]
    assert torch.equal(round_columns_plain(block, part, *grids)[0], expected)
    assert torch.equal(run_on(device, column_block_triton.round_columns, block, part, *grids)[0], expected)


def test_arguments_are_left_alone_and_the_cpu_gets_the_twin() -> None:
    block = problem(16, shuffled(128, 32))
    kept = [part.clone() for part in block if isinstance(part, Tensor)]
    integers, errors = column_block.round_columns(*block)
    for part, before in zip(block, kept, strict=False):
        assert torch.equal(part, before)  # type: ignore[arg-type]
    expected = round_columns_plain(*block)
    assert torch.equal(integers, expected[0])
    assert torch.equal(errors, expected[1])


@pytest.mark.parametrize("device", DEVICES)
def test_the_choice_falls_on_the_kernel_where_triton_runs(device: str) -> None:
    block = problem(16, natural(128, 32))
    errors = run_on(device, column_block.round_columns, *block)[1]
    assert torch.equal(errors, round_columns_plain(*block, panel=128)[1])
    assert not torch.equal(errors, round_columns_plain(*block)[1])  # the twin's default panel sums otherwise
