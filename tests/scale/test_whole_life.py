"""The small form of `make scale`: many jobs at once through their whole life, on a real control plane with KWOK.

It has no bars of time, which other work on the machine would move: it says that every job gets there, once, and
what that costs the API server.
"""

from collections.abc import Iterator

import pytest
from tests.scale.load import OPERATOR
from tests.scale.plane import Plane
from tests.scale.scenarios import life

pytestmark = pytest.mark.scale

JOBS = 100


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    with Plane() as running:
        yield running


def test_many_jobs_succeed_with_one_job_each_and_few_requests(plane: Plane) -> None:
    with plane.operator() as operator:
        seen = life(plane, OPERATOR, operator, "small", JOBS, 0)
        assert operator.metric(r'quantization_jobs\{.*phase="Succeeded"') == JOBS
        codes = operator.metric(r'quantization_api_requests_total\{code="(0|4|5)')
    assert seen.succeeded == JOBS
    assert seen.jobs_made == JOBS, "one Job each"
    assert seen.calls <= 10
    assert seen.status_writes <= 6
    assert codes <= JOBS / 20, "requests that failed"
    assert seen.peak_mb < 300
