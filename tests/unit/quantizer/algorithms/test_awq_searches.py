"""AWQ's scale and clip search in Gram form, against plain loops that run the inputs through the weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.awq import clip as awq_clip
from quantizer.algorithms.awq import scales as awq_scales
from quantizer.algorithms.awq.clip import search_clip
from quantizer.algorithms.awq.rounding import AwqConfig, Clip, awq_round
from quantizer.algorithms.awq.scales import RATIOS, candidate_scales, column_magnitude, search_scales
from quantizer.algorithms.grid import dequantize
from quantizer.algorithms.hessian import GramMatrix
from quantizer.algorithms.magnitude import MeanMagnitude

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
ROWS, COLUMNS, WIDTH, TOKENS = 24, 96, 32, 400


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, inputs [tokens, K] of unequal channels, their Gram matrix (mean over tokens) and magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * 0.05
    inputs = torch.randn(TOKENS, COLUMNS, generator=generator) + 0.3
    inputs *= torch.logspace(-1, 1, COLUMNS)[torch.randperm(COLUMNS, generator=generator)]
    return weight, inputs, inputs.t() @ inputs / TOKENS, inputs.abs().mean(0)


def rounded(weight: Tensor, config: AwqConfig, limits: Tensor | None = None) -> Tensor:
    result = awq_round(weight, config, limits)
    return dequantize(result.integers, result.scales, result.zeros, result.g_idx)


def output_error(inputs: Tensor, weight: Tensor, changed: Tensor) -> float:
    """Mean over tokens of the squared change of all outputs, through the outputs themselves."""
    change = inputs.double() @ (changed - weight).double().t()
    return float(change.square().sum() / inputs.shape[0])


@pytest.mark.parametrize("duo_scaling", [True, False])
@pytest.mark.parametrize("zero_point", [True, False])
def test_losses_are_the_output_errors_of_every_candidate(duo_scaling: bool, zero_point: bool) -> None:
    weight, inputs, gram, magnitude = problem()
    config = AwqConfig(group_size=WIDTH, duo_scaling=duo_scaling, zero_point=zero_point)
    choice = search_scales(weight, gram, magnitude, config)
    scales = candidate_scales(magnitude, column_magnitude(weight, config), config)
    plain = [output_error(inputs, weight, rounded(weight * s, config) / s) for s in scales]
    assert choice.losses == pytest.approx(plain, rel=1e-3)
    best = plain.index(min(plain))
    assert choice.ratio == (None if best == 0 else RATIOS[best - 1])
    assert torch.equal(choice.scales, scales[best])
    assert choice.loss == choice.losses[best]


def test_candidates_are_the_identity_and_the_published_ratios() -> None:
    weight, _, _, magnitude = problem()
    config = AwqConfig(group_size=WIDTH)
    columns = column_magnitude(weight, config)
    relative = torch.zeros(COLUMNS)
    for row in weight:
        for group, part in enumerate(row.split(WIDTH)):
            relative[group * WIDTH : (group + 1) * WIDTH] += part.abs() / part.abs().max() / ROWS
    assert torch.allclose(columns, relative, rtol=1e-3)
    both = candidate_scales(magnitude, columns, config)
    alone = candidate_scales(magnitude, columns, AwqConfig(group_size=WIDTH, duo_scaling=False))
    assert torch.equal(both[0], torch.ones(COLUMNS))
    assert torch.allclose(alone[1], torch.ones(COLUMNS))
    for scales, plain in ((both[6], magnitude**0.25 / columns**0.75), (alone[6], magnitude**0.25)):
        assert torch.allclose(scales, plain / (plain.max() * plain.min()).sqrt(), rtol=1e-3)
        assert float(scales.max() * scales.min()) == pytest.approx(1.0, rel=1e-4)


def test_salient_channels_are_protected_much_better_than_without_scaling() -> None:
    weight, inputs, gram, magnitude = problem()
    config = AwqConfig(bits=3, group_size=WIDTH)
    choice = search_scales(weight, gram, magnitude, config)
    error = output_error(inputs, weight, rounded(weight * choice.scales, config) / choice.scales)
    assert error < 0.6 * output_error(inputs, weight, rounded(weight, config))


def test_where_scaling_cannot_help_the_identity_is_chosen() -> None:
    step = 0.1 / 15
    weight = (torch.arange(COLUMNS) % 16 * step - 5 * step).repeat(ROWS, 1)  # already on the grid
    _, _, gram, magnitude = problem()
    choice = search_scales(weight, gram, magnitude, AwqConfig(group_size=WIDTH, scale_dtype=torch.float32))
    assert choice.ratio is None
    assert torch.equal(choice.scales, torch.ones(COLUMNS))
    assert choice.loss == choice.loss_identity


@given(st.integers(0, 999), st.sampled_from((2, 3, 4, 8)), st.sampled_from((WIDTH, -1)), st.booleans())
def test_no_choice_is_worse_than_no_scaling(seed: int, bits: int, group_size: int, duo: bool) -> None:
    weight, _, gram, magnitude = problem(seed)
    choice = search_scales(weight, gram, magnitude, AwqConfig(bits, group_size, duo_scaling=duo))
    assert choice.loss <= choice.loss_identity
    assert choice.loss == min(choice.losses)


def test_channels_of_one_producer_row_get_one_scale_from_their_pooled_statistics() -> None:
    weight, _, gram, magnitude = problem()
    config = AwqConfig(group_size=WIDTH)
    rows = 7 + torch.arange(COLUMNS) % 48
    choice = search_scales(weight, gram, magnitude, config, rows)
    assert choice.ratio is not None
    assert torch.equal(choice.scales[:48], choice.scales[48:])
    pooled = (magnitude[:48] + magnitude[48:]).repeat(2) / 2
    columns = column_magnitude(weight, config)
    columns = (columns[:48] + columns[48:]).repeat(2) / 2
    expected = candidate_scales(pooled, columns, config)[1 + RATIOS.index(choice.ratio)]
    assert torch.allclose(choice.scales, expected)


def test_linears_searched_together_have_the_sum_of_their_losses() -> None:
    weight, _, gram, magnitude = problem()
    config = AwqConfig(group_size=WIDTH)
    columns = column_magnitude(weight, config)
    scales = candidate_scales(magnitude, columns, config)
    apart = sum(awq_scales.candidate_losses(part, gram, scales, config) for part in weight.split(8))
    assert search_scales(weight, gram, magnitude, config).losses == pytest.approx(apart.tolist(), rel=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("chunk", [1, 21 * COLUMNS * 5])
def test_the_size_of_a_chunk_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _, gram, magnitude = problem()
    config = AwqConfig(group_size=WIDTH)
    scales, clip = search_scales(weight, gram, magnitude, config), search_clip(weight, gram, config)
    monkeypatch.setattr(awq_scales, "CHUNK_CPU", chunk)
    monkeypatch.setattr(awq_clip, "CHUNK_CPU", chunk)
    assert search_scales(weight, gram, magnitude, config).losses == pytest.approx(scales.losses, rel=1e-5)
    again = search_clip(weight, gram, config)
    assert torch.equal(again.limits, clip.limits)
    assert again.loss == pytest.approx(clip.loss, rel=1e-5)


@pytest.mark.parametrize("damaged", ["weight", "gram", "magnitude"])
def test_a_value_that_is_not_finite_is_a_numerical_failure(damaged: str) -> None:
    weight, _, gram, magnitude = problem()
    {"weight": weight, "gram": gram, "magnitude": magnitude}[damaged].view(-1)[3] = float("nan")
    with pytest.raises(QuantizationError, match="not finite") as caught:
        search_scales(weight, gram, magnitude, AwqConfig(group_size=WIDTH))
    assert caught.value.category is Category.NUMERICAL_FAILURE


@pytest.mark.parametrize("clip", ["groups", "rows"])
def test_a_clip_search_on_a_value_that_is_not_finite_is_a_numerical_failure(clip: Clip) -> None:
    weight, _, gram, _ = problem()
    gram[3, 4] = float("inf")
    with pytest.raises(QuantizationError, match="not finite") as caught:
        search_clip(weight, gram, AwqConfig(group_size=WIDTH, clip=clip))
    assert caught.value.category is Category.NUMERICAL_FAILURE


@pytest.mark.parametrize("zero_point", [True, False])
def test_limits_by_group_are_those_of_the_plain_search_over_tokens(zero_point: bool) -> None:
    weight, inputs, gram, _ = problem()
    config = AwqConfig(bits=3, group_size=WIDTH, zero_point=zero_point, clip="groups")
    limits = search_clip(weight, gram, config).limits
    for group, part in enumerate(weight.split(WIDTH, dim=1)):
        seen = inputs[:, group * WIDTH : (group + 1) * WIDTH].double()
        errors, tried = [], []
        for step in range(10):
            bound = part.abs().amax(1, keepdim=True) * (1 - step / 20)
            change = (rounded(part, config, bound) - part).double()
            errors.append((seen @ change.t()).square().mean(0))
            tried.append(bound.squeeze(1))
        best = torch.stack(errors).argmin(0)
        assert torch.allclose(limits[:, group], torch.stack(tried).gather(0, best.unsqueeze(0)).squeeze(0))
    assert len(set((limits / weight.view(ROWS, -1, WIDTH).abs().amax(-1)).flatten().tolist())) > 3


@pytest.mark.parametrize("clip", ["groups", "rows"])
def test_the_losses_are_the_output_errors_with_and_without_the_limits(clip: Clip) -> None:
    weight, inputs, gram, _ = problem()
    config = AwqConfig(bits=3, group_size=WIDTH, clip=clip)
    choice = search_clip(weight, gram, config)
    assert choice.loss == pytest.approx(
        output_error(inputs, weight, rounded(weight, config, choice.limits)), rel=1e-3
    )
    assert choice.loss_unclipped == pytest.approx(
        output_error(inputs, weight, rounded(weight, config)), rel=1e-3
    )


@given(st.integers(0, 999), st.sampled_from((2, 3, 4)), st.booleans())
def test_limits_by_row_make_no_row_worse_than_no_limits_or_limits_by_group(
    seed: int, bits: int, zero_point: bool
) -> None:
    weight, inputs, gram, _ = problem(seed)
    config = AwqConfig(bits, WIDTH, zero_point, clip="rows")
    by_row = search_clip(weight, gram, config)
    by_group = search_clip(weight, gram, AwqConfig(bits, WIDTH, zero_point, clip="groups"))
    for row in range(ROWS):
        part = weight[row : row + 1]
        ours, other = (
            output_error(inputs, part, rounded(part, config, choice.limits[row : row + 1]))
            for choice in (by_row, by_group)
        )
        assert ours <= min(other, output_error(inputs, part, rounded(part, config))) * 1.001
    assert by_row.loss < by_group.loss


def test_there_is_no_clip_search_without_clipping() -> None:
    weight, _, gram, _ = problem()
    with pytest.raises(ValueError, match="nothing to search"):
        search_clip(weight, gram, AwqConfig(group_size=WIDTH, clip="none"))


def test_magnitudes_are_means_over_all_tokens_of_all_batches() -> None:
    inputs = torch.randn(6, 10, 16, generator=torch.Generator().manual_seed(0))
    magnitude = MeanMagnitude(16, CPU)
    for batch in (inputs[:1], inputs[1:3], inputs[3:]):
        magnitude.add(batch)
    assert torch.allclose(magnitude.mean(), inputs.abs().mean((0, 1)))


def test_the_choice_does_not_depend_on_the_unit_of_the_gram_matrix() -> None:
    weight, inputs, gram, magnitude = problem()
    accumulator = GramMatrix(COLUMNS, CPU)
    accumulator.add(inputs.unsqueeze(0))
    config = AwqConfig(group_size=WIDTH)
    ours, other = (search_scales(weight, g, magnitude, config) for g in (gram, accumulator.hessian()))
    assert ours.ratio == other.ratio
    assert torch.equal(
        search_clip(weight, gram, config).limits, search_clip(weight, gram * 800, config).limits
    )
