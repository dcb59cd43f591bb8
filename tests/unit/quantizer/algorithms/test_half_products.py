"""Linears that are learned multiply in a narrower type; everything else does not."""

import pytest
import torch
from torch import Tensor, nn

from quantizer.algorithms.half_products import HalfProducts

pytestmark = pytest.mark.unit

READ = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
WANTED = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def made(learned: bool = True, bias: bool = True) -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(16, 8, bias=bias).requires_grad_(learned)


def output_and_slopes(dtype: torch.dtype, bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What it makes, the slope of its weight, and of what it reads."""
    linear, read = made(bias=bias), READ.clone().requires_grad_()
    with HalfProducts(dtype):
        found = linear(read)
        (found - WANTED).square().sum().backward()
    assert linear.weight.grad is not None
    assert read.grad is not None
    return found.detach(), linear.weight.grad, read.grad


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_narrower_numbers_forward_and_backward(bias: bool) -> None:
    exact, narrow = (output_and_slopes(dtype, bias) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(exact, narrow, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.03 * float(one.abs().max()))
    linear = made(bias=bias)
    expected = (READ.bfloat16() @ linear.weight.detach().bfloat16().t()).float()
    torch.testing.assert_close(narrow[0], expected if not bias else expected + linear.bias.detach())


def test_float32_changes_no_bit() -> None:
    linear = made()
    with HalfProducts(torch.float32):
        assert torch.equal(linear(READ), output_and_slopes(torch.float32, True)[0])


def test_a_weight_that_is_not_learned_multiplies_as_it_is() -> None:
    router = made(learned=False)
    expected = router(READ)
    with HalfProducts(torch.bfloat16):
        assert torch.equal(router(READ), expected)


def test_what_reads_no_gradient_gets_none() -> None:
    linear = made()
    with HalfProducts(torch.bfloat16):
        linear(READ).sum().backward()
    assert READ.grad is None
    assert linear.weight.grad is not None
