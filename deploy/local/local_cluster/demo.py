"""From nothing to a quantized model: the README's first command."""

import argparse
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from local_cluster import cluster, images, machine, operator_install, packages, s3
from local_cluster.binaries import obtain
from local_cluster.buckets import Buckets
from local_cluster.demo_report import Report
from local_cluster.errors import ClusterError
from local_cluster.following import Followed, Follower, condition
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.shell import run
from local_cluster.target import Target, current, local

JOB = "stories15m-gptq"
_MANIFEST = images.ROOT / "deploy/examples/gptq-stories15m.yaml"
_GENERATE = images.ROOT / "deploy/examples/generate.py"
_BUCKET = "artifacts"
_JOB_LIMIT = 1200.0
_IMAGE_VARIABLES = {
    "operator": "IMAGE_OPERATOR",
    "quantizer": "IMAGE_QUANTIZER",
    "seaweedfs": "IMAGE_SEAWEEDFS",
}


class _Lines(Progress):
    """For work beside other work: whole lines only, since a terminal has one place for a spinner."""

    @contextmanager
    def step(self, text: str, quiet_below: float = 0.0) -> Iterator[Callable[[str], None]]:
        """Print the step when it is done."""
        start = time.monotonic()
        yield self._ignore
        took = time.monotonic() - start
        if took >= quiet_below:
            self.say(f"  {text}  {took:.1f} s")

    def _ignore(self, text: str) -> None:
        """What is being done within a step is not shown."""


class _Beside:
    """A function that runs in a thread of its own; `result` waits for it and raises what it raised."""

    def __init__(self, function: Callable[[], dict[str, str]]) -> None:
        self._function = function
        self._result: dict[str, str] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
            self._error = error

    def result(self) -> dict[str, str]:
        """What the function returned."""
        while self._thread.is_alive():
            self._thread.join(0.2)  # a join without a limit would not see an interrupt
        if self._error:
            raise self._error
        return self._result


def prepare_local(settings: Settings, console: Console) -> tuple[Target, dict[str, str]]:
    """Have the local cluster up and the images in its registry; servers and images are built side by side.

    Raises:
        ClusterError: it is not run as root, or one of the steps failed.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "the demo on this machine starts containers, which needs root: `sudo make demo`. "
            "With a cluster of your own, `make demo CLUSTER=current` needs no root"
        )
    progress = Progress(console)
    for check in machine.room(settings):
        progress.say(f"{check.name}: {check.sentence}")
    packages.install(progress)
    with cluster.exclusive(settings, progress):
        building = _Beside(lambda: images.ensure(settings, list(_IMAGE_VARIABLES), _Lines(console)))
        obtain(settings, progress)
        with progress.step("Waiting for the images", quiet_below=1.0):
            references = building.result()
        cluster.up(settings, progress)
    return local(settings), references


def named_images(environ: Mapping[str, str]) -> dict[str, str]:
    """The images that the user names for a cluster of one's own.

    Raises:
        ClusterError: one is not named; the message says how to get there.
    """
    missing = [variable for variable in _IMAGE_VARIABLES.values() if not environ.get(variable)]
    if missing:
        raise ClusterError(
            f"your cluster cannot pull images from this machine: set {', '.join(missing)} to images that it can pull, "
            "with a tag or a digest. Build them at the root of the checkout with `buildah bud -f FILE -t IMAGE .` "
            "(or docker build) from operator/Containerfile, jobimage/Containerfile and "
            "deploy/local/seaweedfs/Containerfile, and push them to your registry"
        )
    return {name: environ[variable] for name, variable in _IMAGE_VARIABLES.items()}


def run_job(target: Target, console: Console, progress: Progress) -> Followed:
    """Run the example's job from the beginning, without what an earlier run of the demo left.

    Raises:
        ClusterError: it is not done in time.
    """
    kubectl = target.kubectl
    namespaced = ("--namespace", s3.NAMESPACE)
    with progress.step("Removing the job and the artifact of an earlier demo", quiet_below=1.5):
        kubectl(*namespaced, "delete", "quantizationjob", JOB, "--ignore-not-found", "--timeout=120s")
        pods = f"--selector=quantization.dev/job-name={JOB}"
        kubectl(*namespaced, "wait", "--for=delete", "pod", pods, "--timeout=120s")
        with s3.opened(target) as buckets:
            buckets.delete(_BUCKET, f"{JOB}/")
    progress.say(f"$ kubectl apply -f {_MANIFEST.relative_to(images.ROOT)}")
    kubectl("apply", "-f", _MANIFEST)
    return Follower(target, s3.NAMESPACE, JOB).follow(console, _JOB_LIMIT)


def show(target: Target, followed: Followed, console: Console, folder: Path) -> Path:
    """Print what came of the job, let the quantized model speak, and return where its report lies now.

    folder: where the report is put.
    """
    report = Report(console)
    kubectl = target.kubectl
    wide = kubectl("--namespace", s3.NAMESPACE, "get", "qj", JOB, "--output", "wide").stdout
    report.section("The job")
    report.command(f"kubectl -n {s3.NAMESPACE} get qj {JOB} -o wide", wide)
    report.conditions(followed.job)
    if condition(followed.job, "Ready").get("status") != "True":
        failure = followed.job["status"].get("failure", {})
        raise ClusterError(
            f"the job failed: {failure.get('category')}: {failure.get('message')} {failure.get('hint', '')}"
        )
    with s3.opened(target) as buckets:
        report.section("The artifact")
        report.objects(followed.job["status"]["artifact"]["uri"], buckets.list(_BUCKET, f"{JOB}/"))
        report.section("Quality and size, on text that the calibration has not seen")
        report.card(buckets.read(_BUCKET, f"{JOB}/README.md").decode())
        report.section("Metrics of the operator and of the pod (while it ran)")
        report.metrics(operator_install.leader_metrics(target), followed.pod_metrics)
        report.section("The quantized model continues a story")
        console.print(_speak(buckets), markup=False)
        buckets.download(_BUCKET, f"{JOB}/report/", folder)
    return folder / "report.html"


def _speak(buckets: Buckets) -> str:
    """Download the artifact's model and let it generate on this machine."""
    with tempfile.TemporaryDirectory(prefix="quantized-model-") as directory:
        buckets.download(_BUCKET, f"{JOB}/model/", Path(directory))
        return run(sys.executable, _GENERATE, directory, timeout=300).stdout.strip()


def farewell(target: Target, is_local: bool, report: Path) -> str:
    """How to open the report, how to look around, and how to end it."""
    kubectl = shlex.quote(str(target.kubectl.program))
    lines = [
        "",
        f"The report, to be opened in a browser: {report.as_uri()}",
        "Everything is left running. Look around:",
        *([f"    export KUBECONFIG={shlex.quote(target.kubeconfig)}"] if is_local else []),
        f"    {kubectl} -n {s3.NAMESPACE} get qj,jobs,pods",
        f"    {kubectl} -n {s3.NAMESPACE} describe qj {JOB}",
        f"    {kubectl} explain qj.spec.workflow.passes",
        f"    {kubectl} -n {operator_install.NAMESPACE} logs deploy/{operator_install.NAME}",
    ]
    if is_local:
        lines.append("Stop it: make down        (WIPE=1 make down also removes its state)")
    else:
        lines.append(
            f"Remove it: make uninstall CLUSTER=current JOBS=delete && {kubectl} delete namespace {s3.NAMESPACE}"
        )
    return "\n".join(lines)


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo", help="from nothing to a quantized model, with everything in between"
    )
    parser.add_argument(
        "--cluster",
        choices=("local", "current"),
        default="local",
        help="local: a cluster on this machine (default); current: the one of your kubeconfig",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    # Tables in a log keep their lines whole.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    progress = Progress(console)
    settings = Settings.from_environment()
    is_local = arguments.cluster == "local"
    if is_local:
        target, references = prepare_local(settings, console)
        written = settings.state / "install"
    else:
        references = named_images(os.environ)
        target = current()
        written = settings.cache / "install"
    s3.ensure(target, written / "s3", references["seaweedfs"], progress)
    legacy = (
        images.built(settings, "legacy") if is_local else None
    )  # `make images` builds it, the demo does not
    operator_install.install(
        target,
        written / "operator",
        references["operator"],
        references["quantizer"],
        progress,
        is_local,
        legacy.reference if legacy else os.environ.get("IMAGE_LEGACY"),
    )
    followed = run_job(target, console, progress)
    opened = show(target, followed, console, settings.cache / "demo-report")
    console.print(farewell(target, is_local, opened), markup=False)
    console.print(f"The demo took {time.monotonic() - started:.0f} s.", markup=False)
    return 0
