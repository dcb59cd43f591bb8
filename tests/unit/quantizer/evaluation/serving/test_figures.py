"""From times to metrics: what a person could compute by hand."""

import random
from typing import Any

import pytest

from quantization_api.metrics import Metric
from quantizer.evaluation.serving.figures import Figure, Shape, Timing, figure, median

pytestmark = pytest.mark.unit

TIMING = Timing(first=[0.2, 0.1, 0.3], each=[0.02, 0.04, 0.03], peak_bytes=5_000)


def metric(**fields: Any) -> Metric:
    return Metric.model_validate({"name": "m", **fields})


CASES: list[tuple[dict[str, Any], float]] = [
    ({"type": "latency", "phase": "prefill"}, 200),
    ({"type": "latency", "phase": "decode"}, 30),
    ({"type": "latency"}, 30),
    ({"type": "throughput", "phase": "prefill", "prompt_tokens": 50, "batch_size": 4}, 1000),
    ({"type": "throughput", "prompt_tokens": 50, "batch_size": 6}, 200),
    ({"type": "peak_memory"}, 5000),
]


@pytest.mark.parametrize(("fields", "value"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_a_value_is_in_milliseconds_tokens_per_second_or_bytes(fields: dict[str, Any], value: float) -> None:
    assert figure(metric(**fields), TIMING).value == pytest.approx(value)


def test_a_metric_says_what_the_server_is_asked_for() -> None:
    assert Shape.of(metric(type="latency")) == Shape(128, 32, 1)
    assert Shape.of(metric(type="latency", phase="prefill", prompt_tokens=7)) == Shape(7, 1, 1)
    assert Shape.of(metric(type="throughput", new_tokens=5, batch_size=3)) == Shape(128, 5, 3)


def test_five_values_have_no_interval_and_six_have_their_least_and_largest() -> None:
    assert median([3, 1, 2, 5, 4]) == Figure(3)
    assert median([6, 3, 1, 2, 5, 4]) == Figure(3.5, 1, 6)


def test_the_interval_of_thirty_values_leaves_out_nine_on_each_side() -> None:
    assert median(range(30)) == Figure(14.5, 9, 20)


def test_the_interval_encloses_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(5)
    found = [median([chance.lognormvariate(0, 1) for _ in range(12)]) for _ in range(2000)]
    inside = sum(one.low is not None and one.high is not None and one.low <= 1 <= one.high for one in found)
    assert inside / len(found) > 0.94
    assert inside / len(found) < 0.99
