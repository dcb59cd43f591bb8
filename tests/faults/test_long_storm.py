"""The storm of `tests/unit/operator/test_stateful.py`, thirty times as long."""

import pytest
from hypothesis import HealthCheck, settings
from tests.support.storm import Storm

pytestmark = pytest.mark.faults

TestLongStorm = Storm.TestCase
TestLongStorm.settings = settings(
    max_examples=3000, stateful_step_count=50, derandomize=True, suppress_health_check=list(HealthCheck)
)
