"""Shows a QuantizationJob while it runs."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from local_cluster.errors import ClusterError
from local_cluster.target import Target

Document = dict[str, Any]


def condition(job: Mapping[str, Any], kind: str) -> Document:
    """The condition of a job with this type; empty when it has none."""
    found = (item for item in job.get("status", {}).get("conditions", []) if item["type"] == kind)
    return next(found, {})


def describe(job: Mapping[str, Any]) -> tuple[int, str]:
    """How far a job is, in percent, and in words."""
    status = job.get("status", {})
    progress = status.get("progress", {})
    phase = status.get("phase", "Pending")
    if phase == "Running" and progress.get("stage"):
        words = f"Running: {progress['stage']}"
        if progress.get("layers"):
            words += f", layer {progress.get('layer', 0)} of {progress['layers']}"
        if progress.get("etaSeconds") is not None:
            words += f", about {progress['etaSeconds']} s to go"
        return int(progress.get("percent", 0)), words
    message = condition(job, "Reconciling").get("message") or condition(job, "Stalled").get("message") or ""
    return int(progress.get("percent", 0)), f"{phase}: {message}" if message else phase


@dataclass(frozen=True, slots=True)
class Followed:
    """The job as it ended, and what its pod said of itself last (Prometheus text)."""

    job: Document
    pod_metrics: str


class Follower:
    """Asks for a job again and again, as `kubectl get qj --watch` would show it.

    Args:
        target: the cluster.
        namespace: of the job.
        name: of the job.
        pause, clock: time.
    """

    def __init__(
        self,
        target: Target,
        namespace: str,
        name: str,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._namespace = namespace
        self._name = name
        self._pause = pause
        self._clock = clock
        self._metrics = ""

    def read(self) -> Document:
        """The job as it is now."""
        text = self._target.kubectl(
            "--namespace", self._namespace, "get", "quantizationjob", self._name, "--output", "json"
        ).stdout
        job: Document = json.loads(text)
        return job

    def follow(self, console: Console, limit: float) -> Followed:
        """Show the job until it is Ready or Stalled.

        Raises:
            ClusterError: it is neither after `limit` seconds.
        """
        deadline = self._clock() + limit
        with self._screen(console) as show:
            while True:
                job = self.read()
                percent, words = describe(job)
                show(percent, words)
                if words.startswith("Running"):
                    self._scrape()
                if any(condition(job, kind).get("status") == "True" for kind in ("Ready", "Stalled")):
                    return Followed(job, self._metrics)
                if self._clock() > deadline:
                    raise ClusterError(f"the job is not done after {limit:.0f} s; it is {words}")
                self._pause(1.0)

    def _scrape(self) -> None:
        """Read the pod's metrics through the API server; a pod that is just ending does not answer any more."""
        kubectl = self._target.kubectl
        found = kubectl(
            "--namespace", self._namespace, "get", "pods", "--output", "name",
            "--selector", f"quantization.dev/job-name={self._name}", "--field-selector", "status.phase=Running",
        )  # fmt: skip
        for pod in found.stdout.split()[:1]:
            path = f"/api/v1/namespaces/{self._namespace}/pods/{pod.removeprefix('pod/')}:8080/proxy/metrics"
            answer = kubectl("get", "--raw", path, check=False)
            if answer.returncode == 0:
                self._metrics = answer.stdout

    @contextlib.contextmanager
    def _screen(self, console: Console) -> Any:
        """A bar on a terminal; elsewhere a line for each change of stage or of ten percent."""
        if console.is_terminal:
            columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
            with Bars(*columns, TextColumn("{task.description}"), console=console) as bars:
                task = bars.add_task("", total=100)
                yield lambda percent, words: bars.update(task, completed=percent, description=words)
            return
        start = self._clock()
        last: tuple[int, str] | None = None

        def line(percent: int, words: str) -> None:
            nonlocal last
            seen = (percent // 10, words.partition(",")[0])
            if seen != last:
                last = seen
                console.print(f"  {self._clock() - start:5.0f} s  {percent:3d} %  {words}", markup=False)

        yield line
