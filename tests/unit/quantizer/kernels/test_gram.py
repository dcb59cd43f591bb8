"""The half-computed Gram matrix is the whole one."""

import pytest
import torch

from quantizer.kernels.gram import NARROWEST, WIDEST, add_gram, add_gram_plain, fill_upper, strip_rows

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("width", [1, 40, NARROWEST, NARROWEST + 1, 600, 2 * WIDEST + 88])
def test_strips_and_a_mirror_give_the_whole_product(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    batches = [torch.randn(96, width, generator=generator) for _ in range(2)]
    ours, twin = torch.zeros(width, width), torch.zeros(width, width)
    for batch in batches:
        add_gram(ours, batch)
        add_gram_plain(twin, batch)
    fill_upper(ours)
    exact = sum(batch.double().t() @ batch.double() for batch in batches)
    assert torch.allclose(ours.double(), torch.as_tensor(exact), atol=1e-3)
    assert torch.allclose(ours, twin, atol=1e-4)
    assert torch.equal(ours, ours.t())


def test_nothing_above_the_strips_is_computed_or_read() -> None:
    width = 4 * NARROWEST
    rows = strip_rows(width)
    assert width % rows == 0
    total = torch.zeros(width, width)
    above = torch.arange(width).unsqueeze(1) // rows < torch.arange(width) // rows
    total[above] = 7.0
    add_gram(total, torch.ones(4, width))
    assert torch.equal(total[above], torch.full((int(above.sum()),), 7.0))
    fill_upper(total)
    assert torch.equal(total, torch.full((width, width), 4.0))


@pytest.mark.parametrize(
    ("width", "rows"), [(1, 96), (288, 96), (768, 128), (1024, 160), (2048, 256), (14336, 256)]
)
def test_strips_grow_with_the_matrix(width: int, rows: int) -> None:
    assert strip_rows(width) == rows
