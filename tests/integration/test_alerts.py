"""Each alert fires for its fault and stays silent beside it, as Prometheus evaluates it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support import promtool

pytestmark = pytest.mark.integration

RULES = Path(__file__).parents[2] / "deploy/monitoring/rules.yaml"
OPERATOR = 'job="quantization-operator"'
FAILURES = "quantization_job_failures_total"


@dataclass(frozen=True)
class Case:
    """What was scraped each minute, and which alerts fire after a while; labels without the alert's own."""

    alert: str
    series: dict[str, str]
    minutes: int
    firing: tuple[dict[str, str], ...] = ()


def failures(category: str, values: str, instance: str = "a") -> dict[str, str]:
    """The counter of one category in one replica."""
    return {f'{FAILURES}{{category="{category}",instance="{instance}",{OPERATOR}}}': values}


def jobs(phase: str, namespace: str, values: str) -> dict[str, str]:
    """How many jobs of a namespace are in a phase."""
    return {f'quantization_jobs{{phase="{phase}",namespace="{namespace}",{OPERATOR}}}': values}


WAITING = "QuantizationJobsWaiting"
FAILING = "QuantizationJobsFailing"
ALL_ZERO = failures("Internal", "0x120") | failures("AccessDenied", "0x120")
CASES: dict[str, Case] = {
    "the operator is not scraped": Case("QuantizationOperatorAbsent", {"up": "0x20"}, 6, ({},)),
    "the operator is scraped": Case(
        "QuantizationOperatorAbsent", {f"quantization_watch_age_seconds{{{OPERATOR}}}": "1x20"}, 6
    ),
    "no replica leads": Case(
        "QuantizationOperatorWithoutLeader",
        {
            f'quantization_is_leader{{instance="a",{OPERATOR}}}': "0x20",
            f'quantization_is_leader{{instance="b",{OPERATOR}}}': "0x20",
        },
        3,
        ({},),
    ),
    "one of two replicas leads": Case(
        "QuantizationOperatorWithoutLeader",
        {
            f'quantization_is_leader{{instance="a",{OPERATOR}}}': "0x20",
            f'quantization_is_leader{{instance="b",{OPERATOR}}}': "1x20",
        },
        3,
    ),
    "the watch is blind": Case(
        "QuantizationOperatorBlind",
        {f"quantization_watch_age_seconds{{{OPERATOR}}}": "0+60x40"},
        20,
        ({"job": "quantization-operator"},),
    ),
    "the watch was quiet between two sweeps": Case(
        "QuantizationOperatorBlind",
        {f"quantization_watch_age_seconds{{{OPERATOR}}}": "0 300 600 0 300x20"},
        20,
    ),
    "a job waits for a worker": Case(
        "QuantizationQueueStuck",
        {f"quantization_workqueue_oldest_seconds{{{OPERATOR}}}": "0+60x20"},
        10,
        ({"job": "quantization-operator"},),
    ),
    "jobs come and go": Case(
        "QuantizationQueueStuck",
        {f"quantization_workqueue_oldest_seconds{{{OPERATOR}}}": "0 90 0 90 0 90x2 0x9"},
        10,
    ),
    "the API server refuses": Case(
        "QuantizationApiRefuses",
        {f'quantization_api_requests_total{{verb="POST",code="403",{OPERATOR}}}': "0+30x60"},
        25,
        ({"code": "403"},),
    ),
    "the API server refused once, and answers": Case(
        "QuantizationApiRefuses",
        {
            f'quantization_api_requests_total{{verb="POST",code="403",{OPERATOR}}}': "0 1x60",
            f'quantization_api_requests_total{{verb="POST",code="201",{OPERATOR}}}': "0+600x60",
        },
        25,
    ),
    "a burst of failures": Case(
        FAILING,
        ALL_ZERO | failures("StorageUnavailable", "0x5 3x60"),
        10,
        ({"category": "StorageUnavailable"},),
    ),
    "a burst just after the operator started": Case(
        FAILING, failures("Internal", "0 4x60"), 5, ({"category": "Internal"},)
    ),
    "a burst over two replicas, of which one took over": Case(
        FAILING,
        failures("NodeLost", "0 2x60") | failures("NodeLost", "0x10 1x60", "b"),
        15,
        ({"category": "NodeLost"},),
    ),
    "a trickle": Case(FAILING, failures("Internal", "0x30 1x60 2x60 3x60"), 200),
    "many manifests that are wrong": Case(FAILING, failures("InvalidWorkflow", "0 40x60"), 10),
    "one failure of each kind": Case(
        FAILING, failures("Internal", "0 1x60") | failures("AccessDenied", "0 1x60"), 10
    ),
    "jobs of one namespace wait, those of another run": Case(
        WAITING,
        jobs("Pending", "team", "2x90") | jobs("Running", "others", "5x90"),
        70,
        ({"namespace": "team"},),
    ),
    "one job of the namespace runs": Case(
        WAITING, jobs("Pending", "team", "2x90") | jobs("Running", "team", "1x90"), 70
    ),
    "an artifact was left behind": Case(
        "QuantizationArtifactLeft",
        {f"quantization_artifacts_left_total{{{OPERATOR}}}": "0x5 1x60"},
        10,
        ({},),
    ),
    "nothing was left behind": Case(
        "QuantizationArtifactLeft", {f"quantization_artifacts_left_total{{{OPERATOR}}}": "0x60"}, 10
    ),
}


def severities() -> dict[str, str]:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return {rule["alert"]: rule["labels"]["severity"] for rule in rules}


def sample(case: Case, labels: dict[str, str]) -> dict[str, Any]:
    own = {"alertname": case.alert, "alertstate": "firing", "severity": severities()[case.alert]}
    told = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted((labels | own).items()))
    return {"labels": f"ALERTS{{{told}}}", "value": 1}


def written(case: Case) -> dict[str, Any]:
    """The case as a test of promtool."""
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    expected = {
        "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
        "eval_time": f"{case.minutes}m",
        "exp_samples": [sample(case, labels) for labels in case.firing],
    }
    return {"interval": "1m", "input_series": series, "promql_expr_test": [expected]}


def judged(folder: Path, *tests: dict[str, Any]) -> str:
    (folder / "tests.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": list(tests)})
    )
    return promtool.run("test", "rules", folder / "tests.yaml")


def test_the_rules_are_well_formed() -> None:
    assert promtool.run("check", "rules", RULES) == ""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_alert_fires_for_its_fault_and_only_for_it(case: Case, tmp_path: Path) -> None:
    assert judged(tmp_path, written(case)) == ""


def test_every_alert_has_a_fault_and_its_silence() -> None:
    fires = {case.alert for case in CASES.values() if case.firing}
    silent = {case.alert for case in CASES.values() if not case.firing}
    assert fires == silent == set(severities())


def test_a_text_has_whole_numbers(tmp_path: Path) -> None:
    case = CASES["a burst of failures"]
    (rule,) = [
        rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"] if rule["alert"] == FAILING
    ]
    alert = {
        "exp_labels": {"category": "StorageUnavailable", "severity": "warning"},
        "exp_annotations": {
            "summary": "3 QuantizationJobs failed within an hour: StorageUnavailable.",
            "description": rule["annotations"]["description"],
            "runbook": rule["annotations"]["runbook"],
        },
    }
    test = {"eval_time": "10m", "alertname": FAILING, "exp_alerts": [alert]}
    series = written(case)["input_series"]
    assert judged(tmp_path, {"interval": "1m", "input_series": series, "alert_rule_test": [test]}) == ""
