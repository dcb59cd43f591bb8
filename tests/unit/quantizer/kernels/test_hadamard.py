"""The fast Hadamard transform: kernel, twin and the explicit matrix agree, and the engine's rotations take it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.triton_kernels import DEVICES, run_on
from torch import Tensor

from quantizer.algorithms.quarot.hadamard import Rotation
from quantizer.algorithms.quarot.kernel_rotation import KernelRotation
from quantizer.kernels import hadamard, hadamard_triton
from quantizer.kernels.hadamard import hadamard_transform_plain

pytestmark = pytest.mark.unit

POWERS = [1, 2, 32, 1024, 8192]


def values(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def explicit(power: int) -> Tensor:
    """S / sqrt(P) [P, P] in float64."""
    bits = torch.arange(power).unsqueeze(1) & torch.arange(power)
    signs = torch.tensor([1.0 - 2.0 * (int(b).bit_count() % 2) for b in bits.flatten()], dtype=torch.float64)
    return signs.view(power, power) / power**0.5


@pytest.mark.parametrize("power", [1, 2, 64, 512])
def test_the_twin_is_the_product_with_the_explicit_matrix(power: int) -> None:
    x = values(3, 5, power)
    assert torch.allclose(hadamard_transform_plain(x).double(), x.double() @ explicit(power), atol=1e-5)
    exact = hadamard_transform_plain(x.double())
    assert torch.allclose(exact, x.double() @ explicit(power), atol=1e-13)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_butterflies_equal_the_twins_bit_by_bit(device: str, dtype: torch.dtype, power: int) -> None:
    x = values(5, power).to(dtype)  # 5 rows do not fill the last program
    ours = run_on(device, hadamard_triton.hadamard_transform, x, hadamard.computed_in(dtype))
    assert ours.dtype is dtype
    assert torch.equal(ours, hadamard_transform_plain(x))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 2**31))
def test_it_is_a_rotation_that_undoes_itself(steps: int, rows: int, seed: int) -> None:
    x = values(rows, 1 << steps, seed=seed)
    turned = hadamard_transform_plain(x)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(hadamard_transform_plain(turned), x, atol=1e-5)


def test_half_precision_is_rounded_once() -> None:
    x = values(4, 64).half()
    assert torch.equal(hadamard_transform_plain(x), hadamard_transform_plain(x.float()).half())


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_is_read_by_its_values_and_left_alone(device: str) -> None:
    wide = values(64, 7)
    kept = wide.clone()
    expected = hadamard_transform_plain(wide.t().contiguous())
    assert torch.equal(run_on(device, hadamard.hadamard_transform, wide.t()), expected)
    assert torch.equal(hadamard.hadamard_transform(wide.t()), expected)
    assert torch.equal(wide, kept)


def test_a_size_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="96 columns are not a power of two"):
        hadamard.hadamard_transform(torch.ones(2, 96))


def counted_rotation(x: Tensor, seed: str, inner: int, back: bool) -> tuple[Tensor, Tensor]:
    """x turned by a KernelRotation, and how often the kernel was launched."""
    launches = 0
    kernel = hadamard_triton.hadamard_transform

    def counted(rows: Tensor, sums: torch.dtype) -> Tensor:
        nonlocal launches
        launches += 1
        return kernel(rows, sums)

    hadamard_triton.hadamard_transform = counted
    try:
        rotation = KernelRotation(x.shape[-1], seed, inner)
        turned = rotation.apply_transposed(x) if back else rotation.apply(x)
    finally:
        hadamard_triton.hadamard_transform = kernel
    return turned, torch.tensor(launches)


@pytest.mark.parametrize(
    ("size", "inner", "launches"),
    [(64, 1, 1), (288, 1, 1), (107 * 8, 1, 1), (28 * 64, 1, 1), (144, 1, 0), (8 * 16, 16, 0)],
)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_a_rotation_takes_the_kernel_for_its_power_of_two(
    device: str, back: bool, size: int, inner: int, launches: int
) -> None:
    x = values(3, size).double()
    turned, seen = run_on(device, counted_rotation, x, "seed", inner, back)
    plain = Rotation(size, "seed", inner)
    expected = plain.apply_transposed(x) if back else plain.apply(x)
    assert torch.allclose(turned, expected, atol=1e-13)
    assert int(seen) == launches
    here, none = counted_rotation(x, "seed", inner, back)  # on a CPU without the interpreter
    assert torch.equal(here, expected)
    assert int(none) == 0
