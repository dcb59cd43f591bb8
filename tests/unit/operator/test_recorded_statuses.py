"""Every state that Kubernetes can leave a Job in: its category, its words, and what to change.

recorded_statuses has real ones, taken from a cluster; composed_statuses what a cluster of one node does not show.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.pod_statuses import COMPOSED, HEALS, RECORDED, diagnosed, differs

from quantization_api.failures import CATALOGUE
from quantization_operator.hindrances import waiting_problem
from quantization_operator.snapshots import ChildPod, KubernetesWarning

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parent
EXPECTED = {
    **{("recorded", name): expected for name, expected in RECORDED.items()},
    **{("composed", name): expected for name, expected in COMPOSED.items()},
}


def status(kind: str, name: str) -> dict[str, Any]:
    """A document of one of the two folders."""
    body: dict[str, Any] = yaml.safe_load((FOLDER / f"{kind}_statuses" / f"{name}.yaml").read_text())
    return body


@pytest.mark.parametrize(("kind", "name"), EXPECTED)
def test_a_status_has_its_cause_and_its_cure(kind: str, name: str) -> None:
    wrong = differs(diagnosed(status(kind, name)), EXPECTED[kind, name])
    assert not wrong


@pytest.mark.parametrize("kind", ["recorded", "composed"])
def test_every_status_is_in_the_table(kind: str) -> None:
    names = {path.stem for path in (FOLDER / f"{kind}_statuses").glob("*.yaml")}
    assert names == {name for of, name in EXPECTED if of == kind}


def test_every_category_that_kubernetes_decides_is_there() -> None:
    seen = {category for category, _, _ in EXPECTED.values()}
    decided_outside = {category for category, entry in CATALOGUE.items() if entry.exit_code is None}
    assert decided_outside <= seen


def refused() -> list[tuple[str, str]]:
    """Those of which events alone tell."""
    return [(kind, name) for kind, name in EXPECTED if name.startswith(("refused", "webhook"))]


@pytest.mark.parametrize(("kind", "name"), refused())
def test_what_may_end_by_itself_is_waited_for(kind: str, name: str) -> None:
    body = status(kind, name)
    assert not body.get("pods")
    problem = waiting_problem([], [KubernetesWarning.of(item) for item in body["events"]])
    assert problem is not None
    assert problem.patience == ("schedule" if name in HEALS else "start")


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("unschedulable")])
def test_a_node_is_waited_for(name: str) -> None:
    body = status("recorded", name)
    problem = waiting_problem([ChildPod.of(item) for item in body["pods"]], [])
    assert problem is not None
    assert problem.patience == "schedule"
