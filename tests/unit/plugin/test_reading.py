"""The pod that reads a report: where and as whom the job ran, without its GPU, and none of the operator's business."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.cluster_objects import quantization_job

from kubectl_quantization.reading import reader
from quantization_api.constants import QJOB_UID_LABEL, REQUEST_ENV
from quantization_api.spec import QuantizationJobSpec
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import QuantizationJob
from quantization_operator.workload import build

pytestmark = pytest.mark.unit

POLICY = Path(__file__).parents[3] / "deploy/policies/network-jobs.yaml"
CHANGES = (
    ("template.resources", {"limits": {"nvidia.com/gpu": "1", "memory": "24Gi"}}),
    ("template.nodeSelector", {"pool": "gpu"}),
    ("template.imagePullSecrets", [{"name": "pull"}]),
    ("storage.region", "eu-1"),
)


@pytest.fixture
def pod() -> dict[str, Any]:
    job = quantization_job(*CHANGES)
    known = QuantizationJob.of(job)
    assert known is not None
    made = build(known, QuantizationJobSpec.model_validate(job["spec"]), OperatorSettings())
    return reader(job, made["spec"]["template"]["spec"], ["report", "--output=-", "s3://a/$(SECRET)"])


def test_it_has_the_account_the_place_and_the_image_of_the_job_and_no_gpu(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert (spec["nodeSelector"], spec["imagePullSecrets"]) == ({"pool": "gpu"}, [{"name": "pull"}])
    assert container["image"] == OperatorSettings().quantizer_image
    names = {each["name"] for each in container["env"]}
    assert {"AWS_ACCESS_KEY_ID", "HOME"} <= names
    assert REQUEST_ENV not in names
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}


def test_it_is_told_where_the_storage_is_and_expands_nothing(pod: dict[str, Any]) -> None:
    assert pod["spec"]["containers"][0]["args"] == [
        *(
            "report",
            "--endpoint=http://s3.example.svc:8333",
            "--region=eu-1",
            "--output=-",
            "s3://a/$$(SECRET)",
        )
    ]


def test_it_is_confined_as_the_jobs_pods_are_and_ends_by_itself(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    assert (spec["automountServiceAccountToken"], spec["restartPolicy"]) == (False, "Never")
    assert spec["activeDeadlineSeconds"] <= 300


def test_the_operator_does_not_take_it_for_its_own_and_the_network_policy_does(pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"]
    assert QJOB_UID_LABEL not in labels
    selected = yaml.safe_load(POLICY.read_text())["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= labels.items()
