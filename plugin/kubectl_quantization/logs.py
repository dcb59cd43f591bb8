"""`logs`: of the pod that works for a job, or worked for it last; of one that is gone, what it kept in the storage."""

import argparse
import sys

from kubectl_quantization.cluster import Cluster, Document, PluginError
from kubectl_quantization.reading import read_by_pod
from quantization_api.constants import CONTAINER_NAME
from quantization_api.text import full_stop

GONE = "No pod of the job is left: a failed pod stays until its job is retried, suspended or deleted, or its node goes."


def logs_command(cluster: Cluster, options: argparse.Namespace) -> int:
    """Shows the log of one pod, and says which others there are.

    Raises:
        PluginError: there is no pod, and none has kept its log; with all that is known of its end.
    """
    job = cluster.job(options.name)
    pods = cluster.pods(job)
    chosen = choose(job, pods, options.pod)
    if chosen is None:
        return _kept(cluster, job, options.tail)
    others = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["name"] != chosen]
    if others:
        print(f"# {chosen}; --pod shows another one: {', '.join(others)}", file=sys.stderr)
    more = ["--follow"] * options.follow + ([f"--tail={options.tail}"] if options.tail is not None else [])
    return cluster.shown("logs", chosen, f"--container={CONTAINER_NAME}", *more)


def _kept(cluster: Cluster, job: Document, tail: int | None) -> int:
    """Shows what pods that are gone kept of their logs; tail: the last lines only."""
    known = what_is_known(job)
    if not job.get("status", {}).get("jobName"):
        raise PluginError(known)
    print(f"# {GONE} This is what it kept of its log when it ended.", file=sys.stderr)
    words = ["logs", f"--uid={job['metadata']['uid']}", job["spec"]["output"]["uri"]]
    try:
        lines = read_by_pod(cluster, job, words).splitlines(keepends=True)
    except PluginError as error:
        raise PluginError(f"{known}\n{error}") from error
    sys.stdout.writelines(lines if tail is None else lines[max(0, len(lines) - tail) :])
    return 0


def choose(job: Document, pods: list[Document], asked: str | None) -> str | None:
    """The pod to look at: the one that was asked for, one that runs, the one that failed, or the last one.

    Raises:
        PluginError: the job has no such pod.
    """
    names = [pod["metadata"]["name"] for pod in pods]
    if asked is not None:
        if asked not in names:
            raise PluginError(f"{asked} is no pod of this job; its pods: {', '.join(names) or 'none'}.")
        return asked
    running = [pod["metadata"]["name"] for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    failed = job.get("status", {}).get("failure", {}).get("podName")
    return next(iter([*running, *([failed] if failed in names else []), *reversed(names)]), None)


def what_is_known(job: Document) -> str:
    """Where no pod is left: why, and what the status keeps of its end."""
    status = job.get("status", {})
    if not status.get("jobName"):
        return "The job has had no pod yet: `kubectl quantization status` says what it waits for."
    if failure := status.get("failure"):
        said = f"{failure['category']}: {full_stop(failure['message'])} {full_stop(failure.get('hint', ''))}"
        return f"{GONE} It ended with {said.rstrip()}"
    return GONE
