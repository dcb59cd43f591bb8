"""The operator as a process of its own against a real API server, with exactly the permissions of deploy/base."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from local_cluster.control_plane import ApiServer

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEM = "quantization-system"
T = TypeVar("T")


def until(what: str, check: Callable[[], T], limit: float = 60) -> T:
    """The first true answer of `check`; fails with `what` after `limit` seconds.

    At most a third of the time goes into checks: those by kubectl would take it from what they wait for.
    """
    deadline = time.monotonic() + limit
    while True:
        asked = time.monotonic()
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {limit:.0f} s: {what}"
        time.sleep(max(0.1, 2 * (time.monotonic() - asked)))


def install(api: ApiServer, *, deployment: bool = False) -> None:
    """Apply deploy/crd and deploy/base as a user would; without the Deployment, since there is no kubelet."""
    made = [d for part in ("crd", "base") for d in rendered(api, DEPLOY / part)]
    documents = [d for d in made if deployment or d["kind"] != "Deployment"]
    first = [d for d in documents if d["kind"] in ("Namespace", "CustomResourceDefinition")]
    rest = [d for d in documents if d not in first]
    for part in (first, rest):
        api.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(part))
    api.kubectl(
        "wait", "--for=condition=Established", "crd/quantizationjobs.quantization.dev", "--timeout=30s"
    )


def rendered(api: ApiServer, directory: Path) -> list[dict[str, Any]]:
    """What a kustomization makes."""
    return list(yaml.safe_load_all(api.kubectl("kustomize", directory).stdout))


def make_namespace(api: ApiServer, name: str, **labels: str) -> None:
    """A namespace in which pods can be made: its service account is there."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
    account = ("get", "serviceaccount", "default", "-n", name)
    until("the service account", lambda: api.kubectl(*account, check=False).returncode == 0)


def service_account_kubeconfig(api: ApiServer, path: Path, namespace: str = SYSTEM) -> Path:
    """A kubeconfig with a token of the operator's service account."""
    token = api.kubectl("create", "token", "quantization-operator", "-n", namespace).stdout.strip()
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path.write_text(yaml.safe_dump(config))
    return path


class Operator:
    """A running operator; settings as keyword arguments. Killed at the end of the block, however it is.

    code: where it imports from first, for the operator of another release.
    """

    def __init__(self, kubeconfig: Path, log: Path, code: Sequence[Path] = (), **settings: object) -> None:
        self._log_path = log
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, code), os.environ.get("PYTHONPATH", "")]).strip(
                os.pathsep
            ),
            "KUBECONFIG": str(kubeconfig),
            "QUANTIZATION_OPERATOR_HTTP_PORT": "0",
            "QUANTIZATION_OPERATOR_PROGRESS_INTERVAL_SECONDS": "1",
            **{f"QUANTIZATION_OPERATOR_{key.upper()}": str(value) for key, value in settings.items()},
        }

    def start(self) -> None:
        """Start it and wait for nothing."""
        with self._log_path.open("ab") as log:
            self._offset = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quantization_operator"], env=self.environment, stderr=log, stdout=log
            )

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        self.start()
        try:
            self.url = until("the operator serves", self._find_url)
            until("the operator is ready", lambda: self.get("/readyz")[0] == 200)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log since it was started, one object a line."""
        with self._log_path.open("rb") as file:
            file.seek(self._offset)
            return [json.loads(line) for line in file.read().splitlines()]

    def get(self, path: str) -> tuple[int, str]:
        """Code and body of one of its pages."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def complaint(self) -> str:
        """What /healthz complains of; "" when it is content, or does not serve (yet, or any more)."""
        try:
            url = self._find_url()
            if not url:
                return ""
            self.url = url
            code, text = self.get("/healthz")
        except (AssertionError, OSError):
            return ""
        return text if code != 200 else ""

    def metric(self, pattern: str) -> float:
        """The sum of all samples whose line begins with the pattern."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))

    def _find_url(self) -> str | None:
        assert self.process.poll() is None, self._log_path.read_text()
        for line in self.log:
            if found := re.search(r"on (127\.0\.0\.1:\d+)", line["message"]):
                return f"http://{found[1]}"
        return None
