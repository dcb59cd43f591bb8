"""The fast Hadamard transform: kernel, twin and the explicit matrix agree, and it is a rotation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.triton_kernels import DEVICES, run_on
from torch import Tensor

from quantizer.kernels import hadamard, hadamard_triton
from quantizer.kernels.hadamard import hadamard_transform_plain

pytestmark = pytest.mark.unit

SIZES = [(1, 2), (1, 64), (1, 4096), (12, 1), (12, 64), (20, 8), (28, 128), (144, 2)]
FACTORLESS = [1, 2, 32, 1024, 8192]


def values(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthogonal(order: int) -> Tensor:
    """A factor that is neither symmetric nor constant: a mix-up with its transpose shows."""
    q, _ = torch.linalg.qr(values(order, order, seed=order))
    return torch.as_tensor(q).contiguous()


def explicit(order: int, power: int) -> Tensor:
    """F x S / sqrt(P) [n, n] in float64."""
    bits = torch.arange(power).unsqueeze(1) & torch.arange(power)
    signs = torch.tensor([1.0 - 2.0 * (int(b).bit_count() % 2) for b in bits.flatten()], dtype=torch.float64)
    factor = orthogonal(order) if order > 1 else torch.ones(1, 1)
    return torch.kron(factor.double(), signs.view(power, power) / power**0.5)


@pytest.mark.parametrize(("order", "power"), [size for size in SIZES if size[1] < 4096])
def test_the_twin_is_the_product_with_the_explicit_matrix(order: int, power: int) -> None:
    x = values(3, 5, order * power)
    ours = hadamard_transform_plain(x, orthogonal(order) if order > 1 else None)
    assert torch.allclose(ours.double(), x.double() @ explicit(order, power), atol=1e-5)


@pytest.mark.parametrize("power", FACTORLESS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("device", DEVICES)
def test_butterflies_equal_the_twins_bit_by_bit(device: str, dtype: torch.dtype, power: int) -> None:
    x = values(5, power).to(dtype)  # 5 rows do not fill the last program
    ours = run_on(device, hadamard_triton.hadamard_transform, x)
    assert ours.dtype is dtype
    assert torch.equal(ours, hadamard_transform_plain(x))


@pytest.mark.parametrize(("order", "power"), [size for size in SIZES if size[0] > 1])
@pytest.mark.parametrize("device", DEVICES)
def test_the_small_factor_agrees_with_the_twins_to_rounding(device: str, order: int, power: int) -> None:
    x, factor = values(2, 3, order * power), orthogonal(order)
    ours = run_on(device, hadamard_triton.hadamard_transform, x, factor)
    assert torch.allclose(ours, hadamard_transform_plain(x, factor), atol=order * 2.0**-23)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from((1, 12, 20, 28)), st.integers(0, 8), st.integers(1, 4), st.integers(0, 2**31))
def test_it_is_a_rotation_that_the_transposed_factor_undoes(
    order: int, steps: int, rows: int, seed: int
) -> None:
    x = values(rows, order << steps, seed=seed)
    factor = orthogonal(order) if order > 1 else None
    turned = hadamard_transform_plain(x, factor)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    back = hadamard_transform_plain(turned, None if factor is None else factor.t())
    assert torch.allclose(back, x, atol=1e-5)


def test_half_precision_is_rounded_once() -> None:
    x, factor = values(4, 12 * 64).half(), orthogonal(12)
    ours = hadamard_transform_plain(x, factor)
    assert torch.equal(ours, hadamard_transform_plain(x.float(), factor).half())


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_is_read_by_its_values_and_left_alone(device: str) -> None:
    wide = values(64, 7)
    kept = wide.clone()
    expected = hadamard_transform_plain(wide.t().contiguous())
    assert torch.equal(run_on(device, hadamard.hadamard_transform, wide.t()), expected)
    assert torch.equal(hadamard.hadamard_transform(wide.t()), expected)
    assert torch.equal(wide, kept)


@pytest.mark.parametrize(
    ("columns", "factor", "sentence"),
    [
        (96, None, "96 columns are not 1 times a power of two"),
        (96, torch.eye(20), "96 columns are not 20 times a power of two"),
        (8, torch.eye(12), "8 columns are not 12 times a power of two"),
        (96, torch.ones(12, 3), r"the small factor is \[12, 3\]; it must be square"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(columns: int, factor: Tensor | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        hadamard.hadamard_transform(torch.ones(2, columns), factor)
