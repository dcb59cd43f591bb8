"""The operator in a storm of random events, faults and restarts; `make faults` has a longer one."""

import pytest
from hypothesis import HealthCheck, settings
from tests.support.storm import Storm

pytestmark = pytest.mark.unit

TestStorm = Storm.TestCase
TestStorm.settings = settings(
    max_examples=120, stateful_step_count=50, derandomize=True, suppress_health_check=list(HealthCheck)
)
