"""The half-computed Gram matrix is the whole one."""

import pytest
import torch

from quantizer.kernels.gram import STRIP, add_gram, add_gram_plain, fill_upper

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("width", [1, 40, STRIP, STRIP + 1, 2 * STRIP + 88])
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
    width = 2 * STRIP
    total = torch.zeros(width, width)
    total[:STRIP, STRIP:] = 7.0
    add_gram(total, torch.ones(4, width))
    assert torch.equal(total[:STRIP, STRIP:], torch.full((STRIP, STRIP), 7.0))
    fill_upper(total)
    assert torch.equal(total, torch.full((width, width), 4.0))
