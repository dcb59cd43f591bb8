"""The example's job on a real cluster, while its operator is killed: it ends Ready, and what is said of it is true."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from local_cluster import images, operator_install
from local_cluster.following import condition
from quantization_api.manifest import LOGS_PREFIX, MANIFEST_NAME

pytestmark = pytest.mark.e2e

NAME = "demo"
LIMIT = 420.0  # the first job of a cluster also pulls the image
Document = dict[str, Any]


@dataclass
class Story:
    """What was seen from the first write to the end."""

    job: Document
    percents: list[int] = field(default_factory=list)
    conditions: list[set[tuple[str, str]]] = field(default_factory=list)
    operators: set[str] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)


def _operator_pods(whole: Any) -> set[str]:
    found = whole.target.kubectl(
        "--namespace",
        operator_install.NAMESPACE,
        "get",
        "pods",
        "--output",
        "jsonpath={.items[*].metadata.name}",
    )
    return set(found.stdout.split())


@pytest.fixture(scope="module")
def story(whole: Any) -> Story:
    """The run: observed once a second; the operator's pod is deleted as soon as progress is reported."""
    whole.apply(NAME, _at_full_length)
    story = Story(job={})
    deadline = time.monotonic() + LIMIT
    killed = False
    while not story.job or not any(
        ("Ready", "True") in seen or ("Stalled", "True") in seen for seen in story.conditions
    ):
        assert time.monotonic() < deadline, (
            f"not done after {LIMIT:.0f} s: {json.dumps(story.job.get('status'))}"
        )
        story.job = whole.get("quantizationjob", NAME)
        status = story.job.get("status", {})
        story.conditions.append({(item["type"], item["status"]) for item in status.get("conditions", [])})
        story.percents.append(status.get("progress", {}).get("percent", 0))
        story.jobs |= {
            item["metadata"]["uid"] for item in whole.get("jobs")["items"] if _is_child(item, story.job)
        }
        story.operators |= _operator_pods(whole)
        if not killed and 0 < story.percents[-1] < 90:
            whole.target.kubectl(
                "--namespace",
                operator_install.NAMESPACE,
                "delete",
                "pods",
                "--all",
                "--grace-period=0",
                "--force",
            )
            killed = True
        time.sleep(0.5)
    assert killed, f"no progress was ever reported: {story.percents}"
    return story


def _at_full_length(manifest: Document) -> None:
    """Slow enough on any machine that the operator can be killed in the middle and another one sees the rest.

    The other one waits for the lease first, up to 15 s.
    """
    calibration, held_out = manifest["spec"]["workflow"]["data_configs"]
    calibration["pre_process_data_config"]["max_samples"] = 128
    held_out["pre_process_data_config"]["max_samples"] = 12
    resources = manifest["spec"]["template"]["resources"]
    resources["requests"] |= {"cpu": "500m"}
    resources["limits"] |= {"cpu": "500m"}


def _is_child(job: Document, owner: Document) -> bool:
    return any(
        reference["uid"] == owner["metadata"]["uid"] for reference in job["metadata"]["ownerReferences"]
    )


def test_it_is_ready_and_kubectl_wait_returns(story: Story, whole: Any) -> None:
    job = whole.wait(NAME, "Ready", 10)
    assert job["status"]["phase"] == "Succeeded"
    assert condition(job, "Reconciling")["status"] == "False"


def test_it_was_reconciling_before_it_was_anything_else(story: Story) -> None:
    first = next(seen for seen in story.conditions if seen)
    assert ("Reconciling", "True") in first
    assert not any({("Ready", "True"), ("Reconciling", "True")} <= seen for seen in story.conditions)


def test_progress_was_seen_while_it_ran(story: Story) -> None:
    between = {percent for percent in story.percents if 0 < percent < 100}
    assert len(between) >= 2, story.percents
    assert story.percents == sorted(story.percents), "progress went backwards"


def test_the_killed_operator_was_replaced_and_there_was_one_job(story: Story) -> None:
    assert len(story.operators) >= 2, "the operator was not killed"
    assert len(story.jobs) == 1
    attempts = story.job["status"].get("attempts", {})
    assert attempts.get("failed", 0) == 0


def test_every_object_in_the_bucket_is_as_the_manifest_says(
    story: Story, whole: Any, stored: Callable[[str], dict[str, str]]
) -> None:
    found = {key: digest for key, digest in stored(NAME).items() if not key.startswith(LOGS_PREFIX)}
    manifest = whole.manifest(NAME)
    digest = found.pop(MANIFEST_NAME)
    assert story.job["status"]["artifact"]["manifestDigest"] == f"sha256:{digest}"
    assert found == {item.key: item.sha256 for item in manifest.objects}
    assert manifest.recipe == story.job["status"]["recipe"]


def test_it_beats_rtn_and_the_model_is_smaller(story: Story, whole: Any) -> None:
    manifest = whole.manifest(NAME)
    assert all(module.error < module.error_rtn for module in manifest.modules)
    measured = {metric["name"]: metric for metric in story.job["status"]["metrics"]}
    assert 0 < measured["kl_divergence"]["output"] < 0.1
    assert measured["size_on_disk"]["output"] < measured["size_on_disk"]["input"]


def test_the_pod_was_restricted_and_had_no_token(story: Story, whole: Any) -> None:
    (pod,) = whole.get("pods", "--selector", f"quantization.dev/job-name={NAME}")["items"]
    (container,) = pod["spec"]["containers"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])


def test_the_operator_says_how_it_went_in_metrics_and_events(story: Story, whole: Any) -> None:
    metrics = operator_install.leader_metrics(whole.target)
    assert 'quantization_job_duration_seconds_count{outcome="Succeeded",passes="GptqQuantizer"}' in metrics
    events = whole.get("events", "--field-selector", f"involvedObject.name={NAME}")["items"]
    assert {"Succeeded"} <= {event["reason"] for event in events}


@pytest.mark.nightly
def test_the_demos_command_ends_with_what_the_quantized_model_writes(whole: Any) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "local_cluster", "demo"],
        cwd=images.ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = ended.stdout.partition("The quantized model continues a story\n")[2]
    assert len(written.partition("\nThe report, ")[0].split()) > 20, ended.stdout
