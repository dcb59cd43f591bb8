"""Monitoring as it is shipped: no label is lost at a scrape, counters begin at 0, and both forms of the rules agree."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from local_cluster import monitoring
from quantization_api.failures import Category
from quantization_operator.metrics import Metrics
from quantizer.progress.metrics import RunCollector, registry_of
from quantizer.progress.tracker import Tracker

pytestmark = pytest.mark.unit

MONITORING = Path(__file__).parents[3] / "deploy/monitoring"
OF_THE_TARGET = {"job", "instance"}
"""Labels that Prometheus gives to every target: a metric's own of that name would be renamed."""


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MONITORING / name).read_text())
    return found


def test_the_plain_rules_are_those_of_the_prometheus_operator() -> None:
    assert read("rules.yaml") == read("alerts.yaml")["spec"]


def test_the_plain_scraping_is_that_of_the_prometheus_operator() -> None:
    plain = {job["job_name"]: job for job in read("scrape.yaml")["scrape_configs"]}
    for name, endpoints in (
        ("operator-monitor.yaml", "endpoints"),
        ("job-monitor.yaml", "podMetricsEndpoints"),
    ):
        monitor = read(name)
        job, (endpoint,) = plain.pop(monitor["metadata"]["name"]), monitor["spec"][endpoints]
        assert (job["scrape_interval"], job["honor_labels"]) == (
            endpoint["interval"],
            endpoint["honorLabels"],
        )
        (found,) = job["kubernetes_sd_configs"]
        labels = dict(each.split("=") for each in found["selectors"][0]["label"].split(","))
        assert labels == monitor["spec"]["selector"]["matchLabels"]
        ports = next(rule for rule in job["relabel_configs"] if rule["action"] == "keep")["regex"].split("|")
        assert endpoint["port"] in ports
        assert endpoint.get("path", "/metrics") == "/metrics"
    assert plain == {}


def test_the_demo_scrapes_as_it_is_shipped_but_for_the_discovery(tmp_path: Path) -> None:
    made, shipped = monitoring.configuration(tmp_path), read("scrape.yaml")
    for job in shipped["scrape_configs"]:
        del job["kubernetes_sd_configs"]
    assert [job.pop("file_sd_configs")[0]["files"] for job in made["scrape_configs"]] == [
        [f"{tmp_path}/{name}.json"] for name in monitoring.selectors()
    ]
    assert made["scrape_configs"] == shipped["scrape_configs"]
    assert made["rule_files"] == [str(MONITORING / "rules.yaml")]


def test_the_demo_tells_of_pods_what_the_rules_ask_for() -> None:
    port = {"name": "progress", "containerPort": 8080}
    pod = {
        "metadata": {"namespace": "team", "name": "job-0"},
        "spec": {"containers": [{"ports": [port]}, {}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }
    (found,) = monitoring.targets([pod, pod | {"status": {"phase": "Pending"}}])
    assert found["targets"] == ["10.0.0.1:8080"]
    asked = {
        label
        for job in read("scrape.yaml")["scrape_configs"]
        for rule in job["relabel_configs"]
        for label in rule["source_labels"]
    }
    assert asked == set(found["labels"])


@pytest.mark.parametrize(
    ("name", "endpoints"),
    [("operator-monitor.yaml", "endpoints"), ("job-monitor.yaml", "podMetricsEndpoints")],
)
def test_the_labels_of_the_metrics_are_kept(name: str, endpoints: str) -> None:
    assert all(endpoint["honorLabels"] for endpoint in read(name)["spec"][endpoints])


def test_no_metric_has_a_label_of_the_target() -> None:
    registries = [Metrics().registry, registry_of(RunCollector(Tracker(), "a", "b", lambda: 0, lambda: 0))]
    for registry in registries:
        for family in registry.collect():
            for sample in family.samples:
                assert not OF_THE_TARGET & set(sample.labels), sample


def test_counters_of_the_operator_begin_at_zero() -> None:
    told = generate_latest(Metrics().registry).decode()
    for category in Category:
        assert f'quantization_job_failures_total{{category="{category}"}} 0.0' in told
    for name in ("artifacts_left", "jobs_reused", "trials", "artifact_bytes"):
        assert f"quantization_{name}_total 0.0" in told
    for kind in ("QuantizationJob", "Job", "Pod"):
        assert f'quantization_unreadable_objects_total{{kind="{kind}"}} 0.0' in told
