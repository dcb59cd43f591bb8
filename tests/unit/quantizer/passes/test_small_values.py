"""Which tensors another data type holds."""

import pytest
import torch

from quantization_api.failures import Category, QuantizationError
from quantizer.passes.data_type import converted

pytestmark = pytest.mark.unit

MATRIX = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def test_a_matrix_that_becomes_zero_is_refused() -> None:
    with pytest.raises(QuantizationError, match="w has only values that are too small for float16") as caught:
        converted("w", MATRIX * 1e-9, torch.float16, "Write another.")
    assert (caught.value.category, caught.value.hint) == (Category.NUMERICAL_FAILURE, "Write another.")


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (MATRIX * 1e-9, torch.bfloat16),
        (MATRIX * 1e-5, torch.float16),
        (torch.cat([MATRIX, MATRIX * 1e-9]), torch.float16),
        (MATRIX[0] * 1e-9, torch.float16),
        (torch.zeros(4, 8), torch.float16),
    ],
    ids=["in a wide type", "coarse but there", "tiny rows beside others", "a vector", "zeros"],
)
def test_one_that_the_type_holds_is_converted(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    assert torch.equal(converted("w", tensor, dtype, ""), tensor.to(dtype))


def test_a_part_of_a_table_may_be_tiny() -> None:
    """As the rows of tokens that never occur are."""
    assert not converted("w", MATRIX * 1e-9, torch.float16, "", part=True).any()
