"""Jobs that cannot succeed: each ends Stalled, with the category that names its cause and a hint that says the cure."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from tests.support.choice import mostly_nightly

from local_cluster import s3
from local_cluster.settings import Settings

pytestmark = pytest.mark.e2e

LIMIT = 180.0  # far above the minute that it should take: a slow machine is no failure of ours
Document = dict[str, Any]


def _empty_model(manifest: Document) -> None:
    manifest["spec"]["workflow"]["input_model"]["model_path"] = "s3://models/nothing-here"


def _foreign_modules(manifest: Document) -> None:
    """Beside the folder that the process starts in lies what is named as its code; it must not be run."""
    _empty_model(manifest)
    manifest["spec"]["template"]["volumes"] = [
        {"name": name, "mountPath": f"/{name}", "configMap": {"name": "foreign-modules"}}
        for name in ("quantizer", "torch", "json")
    ]


def _wrong_secret(manifest: Document) -> None:
    manifest["spec"]["storage"]["credentialsSecret"]["name"] = "wrong-credentials"


def _short_text(manifest: Document) -> None:
    calibration = manifest["spec"]["workflow"]["data_configs"][0]
    calibration["load_dataset_config"]["data_name"] = "s3://datasets/e2e/short.txt"


def _little_memory(manifest: Document) -> None:
    """Less than the import of torch takes, so the kernel kills the process."""
    manifest["spec"]["template"]["resources"] = {
        "requests": {"cpu": "100m", "memory": "150Mi"},
        "limits": {"memory": "150Mi"},
    }


def _missing_image(manifest: Document) -> None:
    manifest["spec"]["template"]["image"] = f"{Settings.from_environment().registry}/no-such-image:1"


CASES: dict[str, tuple[Callable[[Document], None], str, str]] = {
    "empty-model": (_empty_model, "ModelNotFound", "s3://models/nothing-here"),
    "foreign-modules": (_foreign_modules, "ModelNotFound", "s3://models/nothing-here"),
    "wrong-secret": (_wrong_secret, "AccessDenied", "s3://"),
    "short-text": (_short_text, "DataInsufficient", "tokens"),
    "little-memory": (_little_memory, "HostOutOfMemory", "limits.memory"),
    "missing-image": (_missing_image, "ImagePullFailed", "no-such-image"),
}
EVERY_TIME = ("empty-model", "wrong-secret", "little-memory", "missing-image")


@pytest.fixture(scope="module", autouse=True)
def bad_inputs(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A wrong Secret, a text that is too short, and the job whose image is missing, begun early: it takes longest."""
    short = tmp_path_factory.mktemp("text") / "short.txt"
    short.write_text("Once upon a time there was a short story. The end.\n")
    with s3.opened(whole.target) as buckets:
        buckets.upload("datasets", "e2e", [short])
    right = whole.get("secret", s3.CREDENTIALS)["data"]["AWS_ACCESS_KEY_ID"]
    data = {"AWS_ACCESS_KEY_ID": right, "AWS_SECRET_ACCESS_KEY": base64.b64encode(b"not-this-one").decode()}
    wrong = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-credentials"}, "data": data}
    whole.kubectl("create", "--filename", "-", stdin=json.dumps(wrong))
    code = dict.fromkeys(("__init__.py", "__main__.py"), "raise SystemExit('foreign code ran')")
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "foreign-modules"}, "data": code}
    whole.kubectl("create", "--filename", "-", stdin=json.dumps(foreign))
    _apply(whole, "missing-image")
    yield
    with s3.opened(whole.target) as buckets:
        buckets.delete("datasets", "e2e/")


def _apply(whole: Any, name: str) -> None:
    whole.apply(name, CASES[name][0])


@pytest.mark.parametrize("name", mostly_nightly(CASES, EVERY_TIME))
def test_it_is_stalled_with_its_category(whole: Any, name: str) -> None:
    _, category, words = CASES[name]
    if name != "missing-image":
        _apply(whole, name)
    job = whole.wait(name, "Stalled", LIMIT)
    status = job["status"]
    assert status["failure"]["category"] == category, status["failure"]
    assert words in status["failure"]["message"] + status["failure"].get("hint", ""), status["failure"]
    assert status["failure"]["hint"]
    assert status["phase"] == "Failed"
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    took = (datetime.fromisoformat(status["completionTime"]) - created).total_seconds()
    print(f"{name}: Stalled after {took:.0f} s: {status['failure']['message']}")


@pytest.mark.parametrize("name", mostly_nightly([*CASES][:-1], EVERY_TIME[:-1]))
def test_nothing_was_published(whole: Any, stored: Callable[[str], dict[str, str]], name: str) -> None:
    assert "manifest.json" not in stored(name)


def test_a_job_whose_image_cannot_be_pulled_leaves_no_pod_behind(
    whole: Any, wait_until: Callable[..., Any]
) -> None:
    def gone() -> bool:
        return not whole.get("pods", "--selector", "quantization.dev/job-name=missing-image")["items"]

    wait_until(gone, "the pod to be taken away", 60)


def test_a_permanent_failure_is_tried_once(whole: Any) -> None:
    pods = whole.get("pods", "--selector", "quantization.dev/job-name=empty-model")["items"]
    assert len(pods) == 1
