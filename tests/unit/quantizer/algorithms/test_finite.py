"""One bad number is found wherever it stands, and a sum that overflows is not mistaken for one."""

import pytest
import torch

from quantizer.algorithms.finite import all_finite

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_number_is_found(dtype: torch.dtype, bad: float) -> None:
    for place in (0, 1234, 4095):
        tensor = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert all_finite(tensor)
        tensor.view(-1)[place] = bad
        assert not all_finite(tensor)


def test_infinities_of_both_signs_do_not_cancel() -> None:
    assert not all_finite(torch.tensor([torch.inf, -torch.inf, 1.0]))


def test_a_sum_that_overflows_is_no_bad_number() -> None:
    assert all_finite(torch.full((8,), torch.finfo(torch.float32).max))
    assert all_finite(torch.full((300,), torch.finfo(torch.float16).max, dtype=torch.float16))


def test_integers_and_nothing_are_finite() -> None:
    assert all_finite(torch.arange(5))
    assert all_finite(torch.empty(0))
