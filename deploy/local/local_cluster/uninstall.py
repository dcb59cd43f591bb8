"""Removes the operator from a cluster, in an order in which nothing waits for what is already gone.

First the QuantizationJobs, while the operator is there to stop their pods and to remove artifacts (artifactPolicy:
Delete). Where it is gone, or needs longer than it gets, the objects are released and their artifacts are named. Then
the operator, then the kind. `JOBS=keep` removes the operator alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from local_cluster.errors import ClusterError
from local_cluster.installed import FINALIZER, Installed, Object, finalizers, helm_release
from local_cluster.progress import Progress
from local_cluster.settings import Settings
from local_cluster.target import Target, current, local
from local_cluster.waiting import until

PATIENCE_SECONDS = 30.0
_REST_SECONDS = 25.0
"""For everything after the jobs: with them, uninstalling ends within a minute."""
_INTERVAL = 0.5
_FINISHED = ("Succeeded", "Failed")


class Jobs(StrEnum):
    """What becomes of the QuantizationJobs."""

    KEEP = "keep"
    DELETE = "delete"


def refusal(jobs: Sequence[Object], choice: Jobs | None) -> str | None:
    """Why nothing is removed before somebody says what becomes of the jobs; None: it is clear."""
    standing = [job for job in jobs if "deletionTimestamp" not in job["metadata"]]
    if choice is not None or not standing:
        return None
    phases = [(job.get("status") or {}).get("phase") for job in standing]
    unfinished = sum(phase not in _FINISHED for phase in phases)
    return (
        f"the cluster has {_count(len(standing), 'QuantizationJob')}, {unfinished} of them unfinished; "
        "say what becomes of them: JOBS=keep removes the operator and leaves them as they are (pods that run go on), "
        "JOBS=delete deletes them all, with the artifacts of those that have artifactPolicy: Delete"
    )


def artifacts_left(jobs: Sequence[Object]) -> list[str]:
    """Where artifacts may be that should have gone with these objects, which nobody cleans up after any more."""
    left = []
    for job in jobs:
        if FINALIZER in finalizers(job):
            name = f"{job['metadata']['namespace']}/{job['metadata']['name']}"
            uri = ((job.get("spec") or {}).get("output") or {}).get("uri", "an unknown place")
            left.append(
                f"the artifact of {name} may still be at {uri}; `quantizer delete {uri}` removes it by hand"
            )
    return left


def uninstall(
    target: Target, choice: Jobs | None, progress: Progress, patience: float = PATIENCE_SECONDS
) -> list[str]:
    """Remove the operator, and with `delete` (or where there is no job) jobs and kind too.

    Args:
        target: the cluster.
        choice: what becomes of the jobs; None: there must be none.
        progress: who is told.
        patience: seconds that the operator gets to stop jobs and to remove artifacts.

    Returns:
        What is left for a person to do, a sentence each.

    Raises:
        ClusterError: there are jobs and no choice, or something was not gone in time.
    """
    installed = Installed(target.kubectl)
    if sentence := refusal(installed.jobs(), choice):
        raise ClusterError(sentence)
    everything = choice is not Jobs.KEEP
    left = _delete_jobs(installed, progress, patience) if everything else []
    deadline = time.monotonic() + _REST_SECONDS
    left += _remove_operator(installed, progress)
    if everything:
        left += _delete_kind(installed, progress, deadline)
    _remove_namespaces(installed, progress, deadline)
    return left


def _delete_jobs(installed: Installed, progress: Progress, patience: float) -> list[str]:
    """Delete all, and give the operator its time; then let go what is left."""
    if not (jobs := installed.jobs()):
        return []
    with progress.step(f"Deleting {_count(len(jobs), 'QuantizationJob')}") as update:
        installed.remove_jobs()
        deadline = time.monotonic() + patience
        while jobs := [job for job in installed.jobs() if FINALIZER in finalizers(job)]:
            if time.monotonic() >= deadline or not installed.an_operator_acts():
                break
            update(f"Waiting for the operator to clean up after {_count(len(jobs), 'QuantizationJob')}")
        installed.release(jobs)
    return artifacts_left(jobs)


def _remove_operator(installed: Installed, progress: Progress) -> list[str]:
    with progress.step("Removing the operator"):
        found = installed.operator()
        releases = {release for each in found if (release := helm_release(each))}
        installed.remove(each for each in found if not helm_release(each))
        if not releases:
            installed.remove(installed.leases())
    return [
        f"the operator in {namespace} was installed by Helm: `helm uninstall {name} --namespace {namespace}` removes it"
        for name, namespace in sorted(releases)
    ]


def _delete_kind(installed: Installed, progress: Progress, deadline: float) -> list[str]:
    """Delete the kind, what came to be of it meanwhile, and the pods that still run."""
    left: list[str] = []

    def gone() -> bool:
        if installed.definition():
            jobs = installed.jobs()
            left.extend(artifacts_left(jobs))
            installed.release(jobs)
            return False
        return not installed.workloads()

    with progress.step("Deleting the kind QuantizationJob, and waiting for its pods to end"):
        if installed.definition():
            installed.remove_definition()
        installed.remove(each for each in installed.workloads() if each["kind"] == "Job")
        installed.remove(each for each in installed.beside_the_kind() if not helm_release(each))
        _wait(gone, deadline, lambda: _what_stays(installed))
    return list(dict.fromkeys(left))


def _remove_namespaces(installed: Installed, progress: Progress, deadline: float) -> None:
    """Remove the namespaces that the manifests made, unless jobs that are kept are in them, or a release of Helm."""
    held = {each["metadata"]["namespace"] for each in [*installed.jobs(), *installed.workloads()]}
    held |= {each["metadata"].get("namespace") for each in installed.operator() if helm_release(each)}
    names = [each for each in installed.namespaces() if each["metadata"]["name"] not in held]
    with progress.step("Removing the operator's namespace", quiet_below=1.0):
        installed.remove(names)
        wanted = {each["metadata"]["name"] for each in names}
        _wait(
            lambda: not wanted & {each["metadata"]["name"] for each in installed.namespaces()},
            deadline,
            lambda: f"the namespace {', '.join(sorted(wanted))}: `kubectl describe namespace` says why",
        )


def _wait(condition: Callable[[], bool], deadline: float, what: Callable[[], str]) -> None:
    limit = max(deadline - time.monotonic(), 5.0)
    try:
        until(condition, "", limit, interval=_INTERVAL)
    except ClusterError:
        raise ClusterError(f"waited {limit:.0f} s and it is still there: {what()}") from None


def _what_stays(installed: Installed) -> str:
    """What holds up the end: objects that others hold, or pods that do not end."""
    held = [
        f"QuantizationJob {job['metadata']['namespace']}/{job['metadata']['name']}, held by the finalizer "
        + ", ".join(finalizers(job))
        for job in installed.jobs()
    ]
    pods = [
        f"{each['kind']} {each['metadata']['namespace']}/{each['metadata']['name']}"
        for each in installed.workloads()
    ]
    return "; ".join([*held, *pods]) or "the kind QuantizationJob"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add `uninstall` to the command line."""
    parser = subparsers.add_parser(
        "uninstall", help="remove the operator, and QuantizationJobs if you say so, from a cluster"
    )
    parser.add_argument(
        "--cluster",
        choices=("local", "current"),
        default="local",
        help="local: the cluster on this machine (default); current: the one of your kubeconfig",
    )
    parser.add_argument(
        "--jobs",
        type=Jobs,
        choices=tuple(Jobs),
        help="keep: the operator goes, kind and objects stay; delete: everything goes",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="seconds that the operator gets to stop jobs and to remove artifacts (default: %(default)g)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    is_local = arguments.cluster == "local"
    target = local(Settings.from_environment()) if is_local else current()
    for sentence in uninstall(target, arguments.jobs, Progress(), arguments.patience):
        print(sentence, file=sys.stderr)
    return 0
