"""The figure of several tasks, and its interval."""

import numpy as np
import pytest

from quantizer.evaluation.tasks.figures import mean, measurement
from quantizer.evaluation.tasks.requests import Found

pytestmark = pytest.mark.unit


def found(**documents: list[float]) -> dict[str, Found]:
    """Tasks with these documents."""
    return {name: Found(float(np.mean(values)), values) for name, values in documents.items()}


def test_a_task_with_many_documents_weighs_no_more_than_one_with_few() -> None:
    assert mean("acc", found(many=90 * [1.0] + 10 * [0.0], few=[0.0, 1.0])).value == pytest.approx(0.7)


def test_perplexities_have_a_geometric_mean() -> None:
    tasks = found(one=[-1.0, -3.0], two=[-4.0])
    assert mean("perplexity", tasks).value == pytest.approx(np.sqrt(np.exp(2.0) * np.exp(4.0)))


def test_models_are_drawn_with_the_same_documents() -> None:
    before = [float(n % 3 > 0) for n in range(60)]
    after = [*before[:-6], *(6 * [0.0])]
    both = measurement("acc", found(t=before), found(t=after))
    assert both.resampled_before is not None
    assert both.resampled_after is not None
    change = both.resampled_after - both.resampled_before
    assert (change <= 1e-12).all()
    assert change.std() < 0.6 * both.resampled_after.std()
    assert both.ratios is not None, "a search keeps what the interval is made from"
