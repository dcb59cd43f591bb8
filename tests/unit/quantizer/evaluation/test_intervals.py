"""Confidence intervals: against a plain loop, and how often they hold the truth."""

import math

import numpy as np
import pytest

from quantization_api.failures import Category, QuantizationError
from quantizer.evaluation.intervals import MOST_UNITS, Ratio, interval
from quantizer.evaluation.measurement import Measurement

pytestmark = pytest.mark.unit


def noisy(count: int, seed: int = 0) -> Ratio:
    """A mean of numbers around 1."""
    drawn = np.random.default_rng(seed).normal(1.0, 0.5, count)
    return Ratio(drawn, np.ones(count))


def test_the_interval_is_that_of_a_plain_loop() -> None:
    generator = np.random.default_rng(7)
    above, below = generator.normal(100, 20, 30), generator.integers(20, 60, 30).astype(np.float64)
    values = []
    for _ in range(4000):
        chosen = generator.integers(0, 30, 30)
        values.append(np.exp(above[chosen].sum() / below[chosen].sum()))
    found = interval(Ratio(above, below, np.exp).resampled())
    assert found is not None
    low, high = np.percentile(values, (2.5, 97.5))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_19_of_20_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(200):
        found = interval(noisy(50, seed).resampled())
        assert found is not None
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 200 <= 0.98


def test_the_same_figures_have_the_same_interval_every_time() -> None:
    assert interval(noisy(20).resampled()) == interval(noisy(20).resampled())


def test_one_sequence_has_no_interval() -> None:
    assert noisy(1).resampled() is None
    assert interval(None) is None


def test_many_sequences_are_drawn_with_their_neighbours_in_bounded_memory() -> None:
    many = interval(noisy(40 * MOST_UNITS).resampled())
    assert many is not None
    expected = 2 * 1.96 * 0.5 / np.sqrt(40 * MOST_UNITS)
    assert many.high - many.low == pytest.approx(expected, rel=0.1)


def test_sequences_without_a_token_do_not_spoil_the_interval() -> None:
    found = interval(Ratio(np.array([0.0, 3.0, 4.0]), np.array([0.0, 1.0, 1.0])).resampled())
    assert found is not None
    assert 3.0 <= found.low <= found.high <= 4.0


def test_a_figure_that_is_not_finite_is_a_numerical_failure() -> None:
    with pytest.raises(QuantizationError, match="ppl is not finite") as caught:
        Measurement(6.0, math.inf).result("ppl")
    assert caught.value.category is Category.NUMERICAL_FAILURE
