"""Hadamard matrices and fast rotations: orthogonal at every size, the same for the same seed, exact."""

import pytest
import torch
from torch import Tensor

from quantizer.algorithms.quarot.hadamard import (
    Rotation,
    factorize,
    paley,
    quadratic_character,
    random_orthogonal,
    sylvester,
)

pytestmark = pytest.mark.unit

WIDE = [5632, 11008, 13696, 13824, 14336, 18944, 29568, 53248]


def dense(rotation: Rotation) -> Tensor:
    """Q itself, built as the definition says: signs, then the Kronecker product."""
    matrix = torch.ones((1, 1), dtype=torch.float64)
    for factor in [*rotation.factors, torch.eye(rotation.inner, dtype=torch.float64)]:
        matrix = torch.kron(matrix, factor)
    return rotation.signs.unsqueeze(1) * matrix


@pytest.mark.parametrize("first", range(1, 301, 25))
def test_matrices_of_every_size_are_orthogonal_and_fast_application_is_the_dense_product(first: int) -> None:
    for size in range(first, first + 25):
        rotation = Rotation(size, "0")
        matrix = dense(rotation)
        identity = torch.eye(size, dtype=torch.float64)
        assert torch.allclose(matrix @ matrix.t(), identity, atol=1e-12), size
        assert torch.allclose(rotation.apply(identity), matrix, atol=1e-14), size
        assert torch.allclose(rotation.apply_transposed(matrix), identity, atol=1e-12), size


@pytest.mark.parametrize("size", WIDE)
def test_wide_rotations_keep_products_and_are_undone_by_their_transpose(size: int) -> None:
    rotation = Rotation(size, "3")
    x = torch.randn(3, 4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = rotation.apply(x)
    assert torch.allclose(rotation.apply_transposed(turned), x, atol=1e-11)
    flat, flat_turned = x.view(12, size), turned.view(12, size)
    assert torch.allclose(flat_turned @ flat_turned.t(), flat @ flat.t(), atol=1e-8)


@pytest.mark.parametrize("size", [s for s in WIDE if s != 13696])
def test_an_outlier_of_a_wide_input_is_spread_evenly(size: int) -> None:
    x = torch.zeros(size, dtype=torch.float64)
    x[size // 3] = 1.0
    assert torch.allclose(
        Rotation(size, "0").apply(x).abs(), torch.tensor(size**-0.5, dtype=torch.float64), atol=1e-12
    )


@pytest.mark.parametrize(
    ("size", "orders", "rest"),
    [
        (1, (), 1),
        (48, (12, 2, 2), 1),
        (288, (12, 12, 2), 1),
        (768, (12, 2, 2, 2, 2, 2, 2), 1),
        (14336, (28, *(2,) * 9), 1),
        (13824, (108, *(2,) * 7), 1),
        (11008, (344, *(2,) * 5), 1),
        (53248, (52, *(2,) * 10), 1),
        (13696, (2,) * 7, 107),
        (6, (2,), 3),
        (53, (), 53),
    ],
)
def test_sizes_are_split_into_the_cheapest_hadamard_factors(
    size: int, orders: tuple[int, ...], rest: int
) -> None:
    assert factorize(size)[1] == rest
    assert sum(factorize(size)[0]) <= sum(orders)


@pytest.mark.parametrize("order", [4, 8, 12, 20, 24, 28, 36, 44, 52, 76, 100, 108, 148, 172 * 2, 924])
def test_paleys_matrices_are_hadamard_with_a_constant_first_column(order: int) -> None:
    matrix = paley(order)
    assert matrix is not None
    assert torch.equal(matrix.abs(), torch.ones_like(matrix))
    assert torch.equal(matrix @ matrix.t(), order * torch.eye(order, dtype=torch.float64))
    assert torch.equal(matrix[:, 0], torch.ones(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [2, 10, 40, 56, 92, 172])
def test_orders_that_paley_does_not_reach_have_no_such_matrix(order: int) -> None:
    assert paley(order) is None


@pytest.mark.parametrize("order", [3, 5, 7, 9, 11, 25, 27, 49, 125, 343])
def test_the_quadratic_character_has_as_many_squares_as_non_squares(order: int) -> None:
    chi = quadratic_character(order)
    assert chi is not None
    assert torch.equal(chi.sum(1), torch.zeros(order, dtype=torch.int64))
    assert torch.equal(chi.abs().sum(1), torch.full((order,), order - 1))


@pytest.mark.parametrize("order", [2, 4, 6, 15, 16, 21, 85])
def test_there_is_no_field_of_other_orders(order: int) -> None:
    assert quadratic_character(order) is None


def test_factors_have_a_constant_first_column() -> None:
    for factor in (sylvester(4) / 4, random_orthogonal(21, "0")):
        assert torch.allclose(
            factor[:, 0], torch.tensor(len(factor) ** -0.5, dtype=torch.float64), atol=1e-14
        )


def test_a_seed_fixes_the_matrix_and_another_seed_gives_another_one() -> None:
    for size in (288, 107, 6):
        one, two, other = (dense(Rotation(size, seed)) for seed in ("0", "0", "1"))
        assert torch.equal(one, two)
        assert not torch.allclose(one, other, atol=1e-3)


def test_the_signs_of_a_seed_are_these_on_every_machine() -> None:
    expected = [1, 1, -1, -1, 1, 1, -1, 1, -1, -1, -1, -1]
    assert Rotation(12, "0").signs.int().tolist() == expected
    assert Rotation(12, "0", signs=False).signs.int().tolist() == [1] * 12


def test_heads_are_mixed_as_wholes() -> None:
    heads, width = 6, 5
    rotation = Rotation(heads * width, "0", inner=width)
    x = torch.randn(2, heads * width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = dense(Rotation(heads, "0"))
    expected = torch.einsum("bhd,hg->bgd", x.view(2, heads, width), mixing).reshape(2, -1)
    assert torch.allclose(rotation.apply(x), expected, atol=1e-14)
    assert torch.allclose(rotation.apply_transposed(expected), x, atol=1e-14)


def test_application_keeps_the_dtype() -> None:
    x = torch.ones(2, 48)
    assert Rotation(48, "0").apply(x).dtype == torch.float32
    assert Rotation(48, "0").apply(x.double()).dtype == torch.float64


@pytest.mark.parametrize("size", [0, -4])
def test_a_matrix_without_a_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="no size"):
        factorize(size)


def test_columns_that_are_not_whole_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="not groups of 7"):
        Rotation(48, "0", inner=7)
