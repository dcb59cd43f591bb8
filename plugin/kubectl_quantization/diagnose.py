"""`diagnose`: all that is known of a job, as one text for a ticket, without secrets."""

import argparse
import copy
import json
import platform
from collections.abc import Callable, Iterator

from kubectl_quantization.cluster import Cluster, Document, PluginError, created
from kubectl_quantization.logs import choose, what_is_known
from quantization_api import ENGINE_VERSION, GROUP
from quantization_api.constants import CONTAINER_NAME, QJOB_UID_LABEL
from quantization_api.redaction import without_secrets
from quantization_api.text import clean

LOG_LINES = 200
OPERATOR_LINES = 40
OPERATOR = "app.kubernetes.io/name=quantization-operator"
SHOWN_ANNOTATIONS = (f"{GROUP}/", "kueue.x-k8s.io/")
EVENTS = 40
KEPT = "`kubectl quantization logs {name}` shows what it kept of its log in the storage."


def diagnose_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Prints the text. What may not be read says so in its place."""
    job = cluster.job(options.name)
    near = cluster.beside(job["metadata"]["namespace"])
    parts: dict[str, Callable[[], str]] = {
        "Versions": lambda: _versions(near),
        "QuantizationJob": lambda: _object(job),
        "Job": lambda: "\n".join(map(_conditions, _jobs(near, job))) or "none",
        "Pods": lambda: "\n".join(map(_pod, near.pods(job))) or "none",
        "Events": lambda: _events(near, job),
        "Log of the pod": lambda: _log(near, job),
        "Operator": lambda: _operator(near, options.name),
    }
    text = "\n\n".join(f"## {head}\n\n{_said(part)}" for head, part in parts.items())
    print(without_secrets(f"# Diagnosis of {job['metadata']['namespace']}/{options.name}\n\n{text}"))
    return 0


def _said(part: Callable[[], str]) -> str:
    try:
        return part().rstrip()
    except PluginError as error:
        return f"could not be read: {error}"


def _versions(cluster: Cluster) -> str:
    found = json.loads(cluster.kubectl("version", "--output=json"))
    versions = {
        key.removesuffix("Version"): found[key]["gitVersion"] for key in ("clientVersion", "serverVersion")
    }
    return (
        f"plugin {ENGINE_VERSION}, Python {platform.python_version()} on {platform.system()}, "
        f"kubectl {versions['client']}, API server {versions['server']}"
    )


def _object(job: Document) -> str:
    """The job as JSON, without what others wrote beside it."""
    shown = copy.deepcopy(job)
    metadata = shown["metadata"]
    metadata.pop("managedFields", None)
    annotations = metadata.pop("annotations", {})
    known = {key: value for key, value in annotations.items() if key.startswith(SHOWN_ANNOTATIONS)}
    shown["metadata"] = metadata | ({"annotations": known} if known else {})
    return json.dumps(shown, indent=1, ensure_ascii=False)


def _jobs(cluster: Cluster, job: Document) -> list[Document]:
    return cluster.listing("jobs", f"--selector={QJOB_UID_LABEL}={job['metadata']['uid']}")


def _conditions(item: Document) -> str:
    told = [
        f"{each['type']}={each['status']} {each.get('reason', '')}: {each.get('message', '')}".rstrip(": ")
        for each in item.get("status", {}).get("conditions", [])
    ]
    return clean(f"{item['metadata']['name']}: {'; '.join(told) or 'no conditions'}")


def _pod(pod: Document) -> str:
    """A pod's phase, place, containers and conditions, in one line."""
    status = pod.get("status", {})
    containers = [
        f"{each['name']} {json.dumps(each.get('state', {}))}" for each in status.get("containerStatuses", [])
    ]
    node = pod["spec"].get("nodeName", "no node")
    return "\n".join([f"{status.get('phase')} on {node}: {_conditions(pod)}", *map(clean, containers)])


def _events(cluster: Cluster, job: Document) -> str:
    """Of the job, its Jobs and its pods."""
    names = {item["metadata"]["name"] for item in [job, *_jobs(cluster, job), *cluster.pods(job)]}
    own = [event for event in cluster.listing("events") if event["involvedObject"].get("name") in names]
    lines = [
        clean(
            f"{created(event)} {event['involvedObject']['kind']} {event.get('reason')}: {event.get('message')}"
        )
        for event in sorted(own, key=created)[-EVENTS:]
    ]
    return "\n".join(lines) or "none"


def _log(cluster: Cluster, job: Document) -> str:
    chosen = choose(job, cluster.pods(job), None)
    if chosen is None:
        return f"{what_is_known(job)} {KEPT.format(name=job['metadata']['name'])}"
    return cluster.kubectl("logs", chosen, f"--container={CONTAINER_NAME}", f"--tail={LOG_LINES}")


def _operator(cluster: Cluster, name: str) -> str:
    found = cluster.listing("deployments", "--all-namespaces", f"--selector={OPERATOR}")
    return (
        "\n".join(line for item in found for line in _of_deployment(cluster, item, name)) or "none was found"
    )


def _of_deployment(cluster: Cluster, item: Document, name: str) -> Iterator[str]:
    """Its image and replicas, and the lines of its log that name the job."""
    metadata, status = item["metadata"], item.get("status", {})
    images = ", ".join(each["image"] for each in item["spec"]["template"]["spec"]["containers"])
    ready = f"{status.get('readyReplicas', 0)} of {item['spec'].get('replicas', 1)} replicas are ready"
    yield f"{metadata['namespace']}/{metadata['name']}: {images}, {ready}"
    log = ("logs", f"--selector={OPERATOR}", "--tail=2000")
    said = _said(lambda: cluster.beside(metadata["namespace"]).kubectl(*log))
    lines = [line for line in said.splitlines() if name in line or said.startswith("could not be read")]
    yield from map(clean, lines[-OPERATOR_LINES:])
