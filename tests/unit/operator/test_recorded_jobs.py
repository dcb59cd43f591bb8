"""What a real API server had in each phase is read right by the contract, by kstatus and by `kubectl wait`."""

import pytest
from tests.support.recorded_jobs import FOLDER, PHASES, recorded
from tests.support.status_rules import judge, kstatus

from quantization_api.status import Phase, QuantizationJobStatus
from quantization_operator.conditions import phase as phase_of

pytestmark = pytest.mark.unit

READ: dict[Phase, tuple[str, set[str]]] = {
    "Pending": ("InProgress", {"Reconciling"}),
    "Queued": ("InProgress", {"Reconciling"}),
    "Running": ("InProgress", {"Reconciling"}),
    "Suspended": ("InProgress", {"Suspended"}),
    "Succeeded": ("Current", {"Ready"}),
    "Failed": ("Failed", {"Stalled"}),
}
"""What kstatus reads, and for which conditions `kubectl wait` returns."""


def test_every_phase_is_recorded() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {phase.lower() for phase in PHASES}


@pytest.mark.parametrize("phase", PHASES)
def test_a_recorded_status_keeps_the_contract(phase: Phase) -> None:
    written = recorded(phase)["status"]
    status = QuantizationJobStatus.model_validate(written)
    assert written.items() <= status.model_dump(mode="json", by_alias=True, exclude_none=True).items()
    assert status.phase == phase == phase_of(status.conditions)


@pytest.mark.parametrize("phase", PHASES)
def test_kstatus_and_kubectl_wait_read_a_recorded_status(phase: Phase) -> None:
    body = recorded(phase)
    read, waited_for = READ[phase]
    judge(body, {})
    assert kstatus(body) == read
    assert {c["type"] for c in body["status"]["conditions"] if c["status"] == "True"} == waited_for
