"""Every state of a pod or a Job that one node can show: the operator names its cause, and a picture of it can be kept.

`make recordings` writes the pictures that the unit tests of the diagnosis read (tests/support/status_recorder.py).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from tests.support.bad_images import BAD, push
from tests.support.pod_statuses import RECORDED
from tests.support.quick_job import quick
from tests.support.status_recorder import Recorder

from local_cluster import images, s3
from local_cluster.following import condition
from local_cluster.settings import Settings

pytestmark = pytest.mark.faults

EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
POLICIES = Path(__file__).with_name("policies.yaml")
TAINT = "dedicated=others:NoSchedule"
LIMIT = 300.0
Document = dict[str, Any]
Change = Callable[[Document], None]


def template(**fields: Any) -> Change:
    """Fields of spec.template."""

    def change(manifest: Document) -> None:
        manifest["spec"]["template"] |= fields

    return change


def resources(requests: Document | None = None, limits: Document | None = None) -> Change:
    """Resources beside a small request for CPU."""
    asked = {"cpu": "10m", "memory": "64Mi"} | (requests or {})
    return template(resources={"requests": asked} | ({"limits": limits} if limits else {}))


def claim(manifest: Document) -> None:
    volume = {"name": "models", "mountPath": "/models", "persistentVolumeClaim": {"claimName": "models"}}
    manifest["spec"]["template"]["volumes"] = [volume]


def config_map(manifest: Document) -> None:
    volume = {"name": "text", "mountPath": "/text", "configMap": {"name": "no-such-map"}}
    manifest["spec"]["template"]["volumes"] = [volume]


def secret(manifest: Document) -> None:
    manifest["spec"]["storage"]["credentialsSecret"]["name"] = "no-such-secret"


def model(manifest: Document) -> None:
    manifest["spec"]["workflow"]["input_model"]["model_path"] = "s3://models/nothing-here"


def unreachable_storage(manifest: Document) -> None:
    manifest["spec"]["storage"] |= {"endpoint": "http://127.0.0.1:9", "patienceSeconds": 5}
    manifest["spec"]["backoffLimit"] = 1


def in_a_hurry(manifest: Document) -> None:
    manifest["spec"]["activeDeadlineSeconds"] = 3


@dataclass(frozen=True)
class Case:
    """What is done to the example's job, and in which namespace (a suffix of that of the tests) it is applied."""

    change: Change
    place: str = ""


def image(name: str) -> Change:
    """An image that cannot be used, by its name in tests.support.bad_images."""
    registry = Settings.from_environment().registry
    return template(
        image=f"{registry}/e2e/{name}:1", imagePullPolicy="Always"
    )  # one of an earlier test may differ


def slow(limits: Document, **fields: Any) -> Change:
    """So slow that the kubelet, which measures a volume once in one to two minutes, finds it running."""

    def change(manifest: Document) -> None:
        calibration = manifest["spec"]["workflow"]["data_configs"][0]
        calibration["pre_process_data_config"] |= {"max_samples": 64, "max_seq_len": 256}
        resources(limits={"cpu": "100m", **limits})(manifest)
        template(**fields)(manifest)

    return change


def as_it_is(_: Document) -> None:
    """Nothing is wrong with the manifest."""


GPU = {"nvidia.com/gpu": "1"}
CASES: dict[str, Case] = {
    "err-image-pull": Case(image("no-such-image")),
    "image-pull-back-off": Case(image("no-such-image")),
    "image-registry-unreachable": Case(template(image="registry.invalid/quantizer:1")),
    "image-wrong-platform": Case(image("image-wrong-platform")),
    "invalid-image-name": Case(template(image="https://registry.invalid/quantizer")),
    "no-such-program": Case(image("no-such-program")),
    "other-architecture": Case(image("other-architecture")),
    "missing-secret": Case(secret),
    "missing-config-map": Case(config_map),
    "unschedulable-gpu": Case(resources(requests=GPU, limits=GPU)),
    "unschedulable-selector": Case(template(nodeSelector={"pool": "none"})),
    "unschedulable-memory": Case(resources(requests={"memory": "8Ti"})),
    "unschedulable-claim": Case(claim),
    "refused-by-quota": Case(as_it_is, "quota"),
    "refused-by-quota-unset": Case(as_it_is, "unset"),
    "refused-by-limit-range": Case(resources(limits={"memory": "4Gi"}), "range"),
    "refused-by-pod-security": Case(as_it_is, "privileged"),
    "refused-by-policy": Case(as_it_is, "policy"),
    "refused-without-service-account": Case(template(serviceAccountName="no-such-account")),
    "refused-without-priority-class": Case(template(priorityClassName="no-such-class")),
    "refused-without-runtime-class": Case(template(runtimeClassName="no-such-runtime")),
    "webhook-unreachable": Case(as_it_is, "webhook"),
    "oom-killed": Case(resources(limits={"memory": "100Mi"})),
    "oom-killed-in-an-init-container": Case(as_it_is, "init"),
    "oom-killed-in-a-sidecar": Case(as_it_is, "sidecar"),
    "evicted-scratch": Case(slow({}, scratchSize="64Ki")),
    "evicted-own-storage-limit": Case(slow({"ephemeral-storage": "64Ki"})),
    "failed-for-good": Case(model),
    "deadline-exceeded": Case(in_a_hurry),
    "backoff-limit": Case(unreachable_storage),
}
ELSEWHERE = {"unschedulable-taint", "evicted-by-the-api", "preempted", "node-lost-terminating"}
"""Seen in a test of its own, or in test_disruptions.py."""


def namespace(whole: Any, place: str) -> str:
    """Where a case is applied."""
    return f"{whole.namespace}-{place}" if place else str(whole.namespace)


def manifest_of(whole: Any, name: str, case: Case) -> Document:
    """The example's job as the case has it."""
    manifest: Document = yaml.safe_load(EXAMPLE.read_text())
    manifest["metadata"] = {"name": name, "namespace": namespace(whole, case.place)}
    manifest["spec"]["output"]["uri"] = f"s3://artifacts/e2e/{name}"
    quick(manifest)
    resources()(manifest)
    case.change(manifest)
    return manifest


@pytest.fixture(scope="module")
def places(whole: Any) -> Iterator[None]:
    """Namespaces that refuse or change pods, and neither afterwards."""
    names = [namespace(whole, place) for place in sorted({case.place for case in CASES.values()}) if place]
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    credentials = whole.get("secret", s3.CREDENTIALS)
    secrets = [
        credentials | {"metadata": {"name": s3.CREDENTIALS, "namespace": name}, "kind": "Secret"}
        for name in names
    ]
    text = Template(POLICIES.read_text()).substitute(IMAGE=whole.images["quantizer"])
    policies = [item for item in yaml.safe_load_all(text) if item]
    everything = yaml.safe_dump_all([*spaces, *secrets, *policies])
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    try:
        whole.target.kubectl("apply", "--filename", "-", stdin=everything)
        whole.target.kubectl("label", "namespace", namespace(whole, "privileged"), restricted)
        yield
    finally:
        whole.target.kubectl(
            "delete",
            "--ignore-not-found",
            "--timeout=180s",
            "--filename",
            "-",
            stdin=yaml.safe_dump_all([*policies, *spaces]),
        )


def in_effect(whole: Any) -> bool:
    """Whether admission knows the policies, which takes it some seconds: tried with a pod that is not made."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "quantizer", "image": "i"}]},
    }
    expected = {
        "policy": "cost-center", "webhook": "failed calling webhook", "privileged": "hostNetwork",
        "sidecar": "istio-proxy", "init": "model-cache",
    }  # fmt: skip
    for place, words in expected.items():
        done = whole.target.kubectl(
            "--namespace", namespace(whole, place), "create", "--dry-run=server", "--output", "yaml", "--filename", "-",
            stdin=json.dumps(pod), check=False,
        )  # fmt: skip
        if words not in done.stdout + done.stderr:
            print(f"not in effect yet: {place}: {done.stderr}")
            return False
    return True


@pytest.fixture(scope="module")
def wrong(whole: Any, recorder: Recorder, places: None, wait_until: Callable[..., Any]) -> dict[str, str]:
    """All jobs at once, watched until each has shown its state; what is wrong with those that did not."""
    for name in BAD:
        push(name, whole.settings.registry)
    wait_until(lambda: in_effect(whole), "the policies to be in effect", 60, 1.0)
    manifests = [manifest_of(whole, name, case) for name, case in CASES.items()]
    whole.target.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(manifests))
    jobs = {name: (namespace(whole, case.place), name) for name, case in CASES.items()}
    return recorder.watch(jobs, LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_what_kubernetes_shows_is_diagnosed(wrong: dict[str, str], name: str) -> None:
    assert name not in wrong, wrong[name]


@pytest.mark.parametrize("name", CASES)
def test_the_operator_says_so_in_the_status(
    whole: Any, wrong: dict[str, str], name: str, wait_until: Callable[..., Any]
) -> None:
    """While it waits for a cure, as the message of Ready; when it has given up, as the failure."""
    assert name not in wrong, "there is nothing to say yet"
    category, message, hint = RECORDED[name]

    def said() -> bool:
        found = whole.target.kubectl(
            "--namespace", namespace(whole, CASES[name].place), "get", "quantizationjob", name, "--output", "json"
        ).stdout  # fmt: skip
        status = json.loads(found).get("status", {})
        failure = status.get("failure", {})
        if failure:
            return bool(
                failure["category"] == category and message in failure["message"] and hint in failure["hint"]
            )
        told = str((condition({"status": status}, "Ready") or {}).get("message", ""))
        return message in told and hint in told

    wait_until(said, f"the operator to say {message!r} and {hint!r} of {name}", 120)


def test_a_taint_that_nobody_tolerates_is_named(whole: Any, recorder: Recorder) -> None:
    name = "unschedulable-taint"
    whole.target.kubectl("taint", "node", whole.settings.node_name, TAINT)
    try:
        manifest = manifest_of(whole, name, Case(as_it_is))
        whole.target.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(manifest))
        recorder.seen(name, whole.namespace, name)
    finally:
        whole.target.kubectl("taint", "node", whole.settings.node_name, f"{TAINT}-")
        whole.kubectl("delete", "quantizationjob", name, "--ignore-not-found")


def test_every_state_of_the_table_is_provoked() -> None:
    assert set(CASES) | ELSEWHERE == set(RECORDED)
