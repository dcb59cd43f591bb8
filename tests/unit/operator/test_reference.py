"""What is written down beside the code is true: reference pages, alerts, permissions."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantization_api.failures import Category
from quantization_operator import metrics, settings
from quantization_operator.metrics import reference_page

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / path).read_text()))


@pytest.mark.parametrize(
    ("page", "rendered"),
    [("docs/metrics.md", reference_page()), ("docs/settings.md", settings.reference_page())],
)
def test_a_reference_page_is_fresh(page: str, rendered: str) -> None:
    assert (ROOT / page).read_text() == rendered, "run make generate"


def test_alerts_use_only_metrics_and_categories_that_exist() -> None:
    (rule,) = documents("deploy/monitoring/alerts.yaml")
    known = set(re.findall(r"`(quantization_[a-z_]+)`", metrics.reference_page()))
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    assert alerts
    for alert in alerts:
        used = set(re.findall(r"quantization_[a-z_]+", alert["expr"]))
        assert used
        assert used <= known
        for listed in re.findall(r'category=~"([^"]+)"', alert["expr"]):
            assert set(listed.split("|")) <= {str(category) for category in Category}


def test_the_operator_never_reads_a_secret() -> None:
    (role,) = [
        d
        for d in documents("deploy/base/rbac.yaml")
        if d["kind"] == "ClusterRole" and d["metadata"]["name"] == "quantization-operator"
    ]
    resources = {resource for rule in role["rules"] for resource in rule["resources"]}
    assert not {"secrets", "*", "pods/log", "pods/exec"} & resources
    assert not any("*" in rule["verbs"] + rule["apiGroups"] for rule in role["rules"])


def test_the_configuration_of_the_base_names_settings_that_exist() -> None:
    (kustomization,) = documents("deploy/base/kustomization.yaml")
    generated, defaults = kustomization["configMapGenerator"]
    assert defaults["name"] == "quantization-defaults"
    for literal in generated["literals"]:
        name = literal.partition("=")[0].removeprefix(settings.ENV_PREFIX).lower()
        assert name in settings.OperatorSettings.model_fields
