"""The recorded jobs are what the operator writes today, on a real API server."""

import pytest
from tests.support.recorded_jobs import PHASES, Body, record, recorded

from quantization_api.status import Phase

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Phase, Body]:
    return record(tmp_path_factory.mktemp("record"))


@pytest.mark.parametrize("phase", PHASES)
def test_a_recorded_job_is_what_is_written_today(written: dict[Phase, Body], phase: Phase) -> None:
    assert recorded(phase) == written[phase], "python -m tests.support.recorded_jobs records them anew"
