"""Runs Prometheus beside the local cluster, with the scraping and the alerts that a user gets.

It runs on this machine, which reaches the pods. Debian's Prometheus does not know Kubernetes, so what its discovery
would tell of the pods is written into files that Prometheus reads; the rules that choose among them are those shipped.
"""

import argparse
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from local_cluster import images, processes
from local_cluster.errors import ClusterError
from local_cluster.ports import holder
from local_cluster.progress import Progress
from local_cluster.servers import MONITORING
from local_cluster.settings import Settings
from local_cluster.shell import which
from local_cluster.target import Target, local
from local_cluster.waiting import until

PORT = 9090
SHIPPED = images.ROOT / "deploy/monitoring"
LOOK_SECONDS = 2.0
META = "__meta_kubernetes_"
MISSING = (
    "prometheus is not on the PATH. Debian has it: `apt-get install --no-install-recommends prometheus`. That also "
    "starts a service at port 9090; `systemctl disable --now prometheus` ends it, or choose another port: PORT=9091"
)
Document = dict[str, Any]


def configuration(folder: Path) -> Document:
    """Prometheus's configuration: what is shipped, but for the discovery. Each job's targets are in a file there."""
    scraped: Document = yaml.safe_load((SHIPPED / "scrape.yaml").read_text())
    for job in scraped["scrape_configs"]:
        del job["kubernetes_sd_configs"]
        job["file_sd_configs"] = [{"files": [str(folder / f"{job['job_name']}.json")]}]
    return {**scraped, "rule_files": [str(SHIPPED / "rules.yaml")]}


def selectors() -> dict[str, str]:
    """Of each job that is scraped, which pods its discovery asks for."""
    jobs = yaml.safe_load((SHIPPED / "scrape.yaml").read_text())["scrape_configs"]
    return {job["job_name"]: job["kubernetes_sd_configs"][0]["selectors"][0]["label"] for job in jobs}


def targets(pods: list[Document]) -> Iterator[Document]:
    """The ports of pods as Prometheus's discovery of Kubernetes tells of them."""
    for pod in pods:
        if not (address := pod.get("status", {}).get("podIP")):
            continue
        for port in (each for one in pod["spec"]["containers"] for each in one.get("ports", ())):
            labels = {
                "namespace": pod["metadata"]["namespace"],
                "pod_name": pod["metadata"]["name"],
                "pod_phase": pod["status"]["phase"],
                "pod_container_port_name": port.get("name", ""),
            }
            yield {
                "targets": [f"{address}:{port['containerPort']}"],
                "labels": {META + name: value for name, value in labels.items()},
            }


def start(settings: Settings, port: int, progress: Progress) -> str:
    """Have Prometheus running, with the configuration of this checkout; its address.

    Raises:
        ClusterError: there is no Prometheus, it does not begin, or somebody else holds the port.
    """
    program = which(MONITORING)
    if program is None:
        raise ClusterError(MISSING)
    if not processes.running(settings, MONITORING) and (other := holder("127.0.0.1", port)):
        raise ClusterError(f"port {port} of 127.0.0.1 is held by {other}; choose another: PORT=9091")
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(configuration(folder), sort_keys=False)
    (folder / "prometheus.yml").write_text(text)
    address = f"127.0.0.1:{port}"
    words = (
        *(str(program), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        *("--storage.tsdb.retention.time=1d", f"--web.listen-address={address}", "--log.level=warn"),
    )
    with progress.step("Starting Prometheus"):
        processes.start(
            settings, processes.Server(MONITORING, words, text + (SHIPPED / "rules.yaml").read_text())
        )
        until(lambda: _ready(address), f"Prometheus; its log is {settings.logs}/{MONITORING}.log", 30)
    return f"http://{address}"


def follow(settings: Settings, target: Target) -> None:
    """Tell Prometheus which pods there are, until it ends.

    Raises:
        ClusterError: the cluster does not answer any more.
    """
    while processes.running(settings, MONITORING):
        for name, selector in selectors().items():
            asked = ("get", "pods", "--all-namespaces", "--selector", selector, "--output", "json")
            found = json.dumps(list(targets(json.loads(target.kubectl(*asked).stdout)["items"])))
            path = _folder(settings) / f"{name}.json"
            path.with_suffix(".new").write_text(found)
            path.with_suffix(".new").replace(path)
        time.sleep(LOOK_SECONDS)


def _folder(settings: Settings) -> Path:
    return settings.state / "monitoring"


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def welcome(url: str) -> str:
    """What to do with it."""
    boards = [str(path.relative_to(images.ROOT)) for path in sorted(SHIPPED.glob("dashboards/*.json"))]
    return "\n".join(
        (
            f"Prometheus is at {url}: {url}/targets shows what is scraped, {url}/alerts the alerts.",
            "Pods of jobs are scraped every 15 s while they run; `make demo` in another terminal starts one.",
            f"The dashboards are {' and '.join(boards)}. Debian has no Grafana: in yours, add {url}",
            "as a data source of type Prometheus, and import both files (Dashboards, New, Import).",
            "Ctrl-C stops Prometheus; the cluster goes on.",
        )
    )


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add `monitoring` to the command line."""
    parser = subparsers.add_parser("monitoring", help="run Prometheus beside the local cluster, until Ctrl-C")
    parser.add_argument("--port", type=int, default=PORT, help=f"of 127.0.0.1 (default: {PORT})")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if not processes.running(settings, "kube-apiserver"):
        raise ClusterError("the local cluster is not up: `make demo` or `make up` first")
    try:
        print(welcome(start(settings, arguments.port, Progress())), flush=True)
        follow(settings, local(settings))
    except KeyboardInterrupt:
        return 0
    finally:
        processes.stop(settings, [MONITORING])
    raise ClusterError(f"Prometheus has ended; its log is {settings.logs}/{MONITORING}.log")
