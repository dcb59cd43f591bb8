"""The dashboards ask for metrics and labels that there are, and every alert has a section that says what to do.

tests/integration/test_dashboards_filled.py sends the queries to a real Prometheus.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quantization_operator.metrics import LIVE, Metrics
from quantizer.progress.metrics import RunCollector, registry_of
from quantizer.progress.tracker import Tracker

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy/monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
METRIC = re.compile(r"\b(?:quantization|quantizer|process)_[a-z_]+\b")
SELECTED = re.compile(r"\b((?:quantization|quantizer)_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_THE_TARGET = {"instance", "job", "namespace", "pod"}
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")
SERIES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


@dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus."""

    dashboard: str
    panel: str
    expr: str
    legend: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}"


def dashboard(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def queries() -> Iterator[Query]:
    for path in DASHBOARDS:
        for panel in dashboard(path)["panels"]:
            for target in panel.get("targets", ()):
                yield Query(path.stem, panel["title"], target["expr"], target["legendFormat"])


QUERIES = list(queries())


def known() -> dict[str, set[str]]:
    """Series -> labels, of all that operator and quantizer serve."""
    tracker = Tracker()
    with tracker.stage("calibrate"):
        tracker.count_tokens("calibrate", 1)
        tracker.count_bytes("read model", 1)
        quantizer = registry_of(RunCollector(tracker, "a", "b", lambda: 0, lambda: 0))
        found = {name: labels for one in (Metrics().registry, quantizer) for name, labels in served(one)}
    found |= {name: set(labels) for name, (_, _, labels) in LIVE.items()}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "describe") and hasattr(metric, "_labelnames"):
            described = next(iter(metric.describe()))
            for suffix in SERIES[described.type]:
                found[described.name + suffix] = set(metric._labelnames) | {"le"}
    return found


def served(registry: CollectorRegistry) -> Iterator[tuple[str, set[str]]]:
    """The samples of a page as Prometheus reads it."""
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            yield sample.name, set(sample.labels)


KNOWN = known()


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_panel_asks_for_what_there_is(query: Query) -> None:
    names = set(METRIC.findall(re.sub(r"\{[^}]*\}|\bby \([^)]*\)|\bon \([^)]*\)", "", query.expr)))
    assert names
    assert names <= set(KNOWN), f"no metric {names - set(KNOWN)}"
    labels = set().union(*(KNOWN[name] for name in names)) | OF_THE_TARGET
    for name, selectors in SELECTED.findall(query.expr):
        chosen = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selectors))
        assert chosen <= KNOWN[name], f"{name} has no label {chosen - KNOWN[name]}"
    for group in GROUPED.findall(query.expr):
        assert set(re.split(r", *", group)) <= labels, group
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= labels, query.legend


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_stands_for_itself(path: Path) -> None:
    board = dashboard(path)
    variables = {each["name"] for each in board["templating"]["list"]}
    used = {first or second for first, second in VARIABLE.findall(json.dumps(board["panels"]))}
    assert used <= variables
    assert used | {"datasource"} == variables, "a variable that nothing asks for"
    identities = [panel["id"] for panel in board["panels"]]
    assert len(set(identities)) == len(identities)
    for panel in board["panels"]:
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_dashboards_have_names_of_their_own_and_are_installed() -> None:
    assert len({dashboard(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS) == 2
    made = yaml.safe_load((MONITORING / "dashboards/kustomization.yaml").read_text())["configMapGenerator"]
    assert {name for each in made for name in each["files"]} == {path.name for path in DASHBOARDS}


def test_every_alert_has_a_section_of_the_runbooks() -> None:
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"][0]["rules"]
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert [rule["alert"] for rule in rules] == sections
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"
