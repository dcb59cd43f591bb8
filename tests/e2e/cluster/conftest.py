"""The whole for the end-to-end tests: cluster, images, S3 and operator. What was not running before is stopped after.

Jobs of tests live in a namespace of their own, so a demo's objects are never touched.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.support.status_recorder import Recorder

from local_cluster import cluster, demo, images, operator_install, s3, teardown
from local_cluster.following import condition
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.target import Target
from local_cluster.waiting import until
from quantization_api.manifest import MANIFEST_NAME, Manifest

NAMESPACE = "quantization-e2e"
EXAMPLE = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
Document = dict[str, Any]


@dataclass
class Whole:
    """A cluster with everything in it, and what tests do with it."""

    settings: Settings
    target: Target
    images: dict[str, str]
    namespace: str = NAMESPACE

    def install_operator(self, legacy: str | None = None) -> None:
        """Install the operator; `legacy` is the image of the stock packages."""
        operator_install.install(
            self.target,
            self.settings.state / "install" / "operator",
            self.images["operator"],
            self.images["quantizer"],
            Progress(Console(stderr=True, highlight=False, soft_wrap=True)),
            legacy=legacy,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints, in the namespace of the tests."""
        return self.target.kubectl("--namespace", NAMESPACE, *arguments, stdin=stdin, check=check).stdout

    def get(self, *arguments: str) -> Document:
        """An object, or a list of objects."""
        document: Document = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return document

    def apply(self, name: str, change: Callable[[Document], None] | None = None) -> None:
        """Apply the example under another name, on a small sample; `change` gets the manifest before that."""

        def small(manifest: Document) -> None:
            calibration, held_out = manifest["spec"]["workflow"]["data_configs"]
            calibration["pre_process_data_config"]["max_samples"] = 16
            held_out["pre_process_data_config"]["max_samples"] = 4
            if change:
                change(manifest)

        self.apply_example(EXAMPLE, name, small)

    def apply_example(
        self, path: Path, name: str, change: Callable[[Document], None] = lambda _: None
    ) -> None:
        """Apply a manifest of the examples under another name; `change` gets it before that."""
        manifest: Document = yaml.safe_load(path.read_text())
        manifest["metadata"] = {"name": name, "namespace": NAMESPACE}
        spec = manifest["spec"]
        spec["output"]["uri"] = f"s3://artifacts/e2e/{name}"
        spec["template"]["resources"]["requests"] = {"cpu": "100m", "memory": "256Mi"}
        change(manifest)
        self.kubectl("delete", "quantizationjob", name, "--ignore-not-found", "--timeout=60s")
        self.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(manifest))

    def manifest(self, name: str) -> Manifest:
        """The manifest of a job's artifact."""
        with s3.opened(self.target) as buckets:
            return Manifest.model_validate_json(buckets.read("artifacts", f"e2e/{name}/{MANIFEST_NAME}"))

    def wait(self, name: str, kind: str, limit: float) -> Document:
        """Wait with `kubectl wait`, as a script of a user does, and return the job."""
        done = self.target.kubectl(
            "--namespace", NAMESPACE, "wait", f"--for=condition={kind}", f"qj/{name}", f"--timeout={limit:.0f}s",
            check=False,
        )  # fmt: skip
        job = self.get("quantizationjob", name)
        assert done.returncode == 0, (
            f"{name} is not {kind} after {limit:.0f} s: {json.dumps(job.get('status'), indent=1)}"
        )
        assert condition(job, kind)["observedGeneration"] == job["metadata"]["generation"]
        return job


@pytest.fixture(scope="session")
def whole() -> Iterator[Whole]:
    """The cluster with S3 and the operator, brought up if it is not, and left as it was found."""
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests start containers, which needs root")
    settings = Settings.from_environment()
    with _alone(settings):
        yield from _whole(settings)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One run of these tests at a time: another would delete the namespace under its feet."""
    settings.state.mkdir(parents=True, exist_ok=True)
    with (settings.state / "e2e.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.fail("another run of the end-to-end tests uses the cluster")
        yield


def _whole(settings: Settings) -> Iterator[Whole]:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    progress = Progress(console)
    was_up = all(server.pid for server in cluster.status(settings))
    try:
        target, references = demo.prepare_local(settings, console)
        s3.ensure(target, settings.state / "install" / "s3", references["seaweedfs"], progress)
        whole = Whole(settings, target, references)
        whole.install_operator()
        _make_namespace(target)
        with s3.opened(target) as buckets:  # a run that was ended leaves artifacts, which are other jobs' now
            buckets.delete("artifacts", "e2e/")
        yield whole
        with s3.opened(target) as buckets:
            buckets.delete("artifacts", "e2e/")
        target.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")
    finally:
        if not was_up:
            with cluster.exclusive(settings, progress):
                teardown.down(settings, progress)


def _make_namespace(target: Target) -> None:
    """An empty namespace that admits only restricted pods, with the credentials of the S3 server."""
    target.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    target.kubectl("create", "--filename", "-", stdin=json.dumps(namespace))
    found = target.kubectl(
        "--namespace", s3.NAMESPACE, "get", "secret", s3.CREDENTIALS, "--output", "json"
    ).stdout
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": s3.CREDENTIALS, "namespace": NAMESPACE},
        "data": json.loads(found)["data"],
    }
    target.kubectl("create", "--filename", "-", stdin=json.dumps(secret))


@pytest.fixture(scope="session")
def recorder(whole: Whole) -> Iterator[Recorder]:
    """Pictures of jobs and their pods, for the unit tests of the diagnosis."""
    with Recorder(whole.target) as recorder:
        yield recorder


@pytest.fixture
def stored(whole: Whole) -> Callable[[str], dict[str, str]]:
    """A function that reads every object of a job's artifact and returns key -> sha256."""

    def read(name: str) -> dict[str, str]:
        prefix = f"e2e/{name}/"
        with s3.opened(whole.target) as buckets:
            return {
                item.key.removeprefix(prefix): hashlib.sha256(buckets.read("artifacts", item.key)).hexdigest()
                for item in buckets.list("artifacts", prefix)
            }

    return read


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """`until(condition, what, limit)`: waits on a condition with a limit."""
    return until
