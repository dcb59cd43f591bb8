"""Which records of points count for a job that finds them."""

import pytest

from quantization_api.failures import Category
from quantization_api.manifest import TrialRecord
from quantizer.search.trials import Kept, counts

pytestmark = pytest.mark.unit


def kept(worker: str, category: str = "") -> Kept:
    state = "Failed" if category else "Finished"
    record = {"number": 0, "parameters": {}, "state": state, "worker": worker}
    return Kept(trial=TrialRecord.model_validate(record), category=category)


def test_points_of_other_jobs_count_where_reuse_is_allowed() -> None:
    assert counts(kept("other/3"), "job", reuse=True)
    assert not counts(kept("other/3"), "job", reuse=False)
    assert counts(kept("job/3"), "job", reuse=False)
    assert counts(kept("job"), "job", reuse=False)
    assert not counts(kept("jobs/3"), "job", reuse=False)


@pytest.mark.parametrize("category", [Category.GPU_OUT_OF_MEMORY, Category.HOST_OUT_OF_MEMORY])
def test_a_point_that_another_jobs_memory_did_not_hold_is_tried_again(category: Category) -> None:
    assert not counts(kept("other/3", category), "job", reuse=True)
    assert counts(kept("job/3", category), "job", reuse=True)
    assert counts(kept("other/3", Category.NUMERICAL_FAILURE), "job", reuse=True)
