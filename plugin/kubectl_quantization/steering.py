"""`retry`, `cancel`, `resume` and `submit`: what changes a job."""

import argparse
import json
import sys
import time

from kubectl_quantization.cluster import QJOBS, Cluster, Document, PluginError, phase_of
from kubectl_quantization.following import watch
from quantization_api import KIND
from quantization_api.constants import RETRY_ANNOTATION
from quantization_api.text import full_stop


def retry_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Starts a failed job again.

    Raises:
        PluginError: it has not failed.
    """
    job = cluster.job(options.name)
    if phase_of(job) == "Succeeded":
        raise PluginError(f"{options.name} has succeeded: to run it again, delete it and submit it.")
    if phase_of(job) == "Suspended":
        raise PluginError(f"{options.name} is suspended: kubectl quantization resume {options.name}")
    if phase_of(job) != "Failed":
        raise PluginError(f"{options.name} has not failed: it is {phase_of(job)}.")
    cluster.kubectl("annotate", QJOBS, options.name, f"{RETRY_ANNOTATION}={time.time_ns()}", "--overwrite")
    print(f"{options.name} starts again, from the layers that are saved.")
    if hint := job["status"].get("failure", {}).get("hint"):
        print(f"If it fails as before: {full_stop(hint)}")
    return 0


def cancel_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Stops a job; with --delete, for good.

    Raises:
        PluginError: it has ended.
    """
    if options.delete:
        print(cluster.kubectl("delete", QJOBS, options.name, "--wait=false"), end="")
        return 0
    if phase_of(cluster.job(options.name)) in ("Succeeded", "Failed"):
        raise PluginError(
            f"{options.name} has ended. To remove it: kubectl quantization cancel {options.name} --delete"
        )
    _suspend(cluster, options.name, True)
    print(f"{options.name} stops and keeps the layers that are finished.")
    print(f"To go on: kubectl quantization resume {options.name}")
    return 0


def resume_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Lets a job go on that was cancelled.

    Raises:
        PluginError: it is not suspended.
    """
    if not cluster.job(options.name)["spec"].get("suspend"):
        raise PluginError(f"{options.name} is not suspended: there is nothing to resume.")
    _suspend(cluster, options.name, False)
    print(f"{options.name} goes on, from the layers that are saved.")
    return 0


def submit_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Applies the jobs of a file; with --watch, shows them until they have ended.

    Raises:
        PluginError: the API server refuses them, or the file holds none.
    """
    file = _File(cluster, options.filename)
    if not _jobs(file.apply("--dry-run=client")):
        raise PluginError(f"{options.filename} holds no {KIND}: `kubectl apply -f` applies other objects.")
    dry = ["--dry-run=server"] * options.dry_run
    applied = _jobs(file.apply(*dry))
    for job in applied:
        print(
            f"{job['metadata']['namespace']}/{job['metadata']['name']} "
            + ("is valid" if dry else "is submitted")
        )
    if dry or not options.watch:
        return 0
    places = [(job["metadata"]["namespace"], job["metadata"]["name"]) for job in applied]
    return watch(lambda: [cluster.beside(namespace).job(name) for namespace, name in places])


def _suspend(cluster: Cluster, name: str, suspend: bool) -> None:
    patch = json.dumps({"spec": {"suspend": suspend}})
    cluster.kubectl("patch", QJOBS, name, "--type=merge", f"--patch={patch}")


def _jobs(applied: Document) -> list[Document]:
    items: list[Document] = applied["items"] if applied["kind"] == "List" else [applied]
    return [item for item in items if item["kind"] == KIND]


class _File:
    """A file as kubectl takes it, or standard input, which is read once."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._stdin = sys.stdin.read() if name == "-" else ""

    def apply(self, *options: str) -> Document:
        """The objects as they are then, or would be."""
        words = ("apply", f"--filename={self._name}", "--validate=strict", "--output=json", *options)
        answer: Document = json.loads(self._cluster.kubectl(*words, stdin=self._stdin))
        return answer
