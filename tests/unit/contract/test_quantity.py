"""Amounts as Kubernetes writes them, as bytes."""

import pytest

from quantization_api.bounded import bytes_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4Gi", 4 * 1024**3),
        ("1.5Mi", 1572864),
        ("4G", 4_000_000_000),
        ("12k", 12_000),
        ("3e3", 3000),
        ("2E", 2 * 10**18),
        ("1500m", 1),
    ],
)
def test_bytes_of_a_quantity(quantity: int | str, expected: int) -> None:
    assert bytes_of(quantity) == expected
