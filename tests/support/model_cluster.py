"""What acts in a cluster beside the operator, by rules: the Job controller, the garbage collector, a kubelet, a queue.

It also keeps the truth that the operator's statuses are judged by: what really happened to the pods of each job.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.support.cluster_objects import controlled_by, disruption, failed_result, message_of
from tests.support.manifests import manifest
from tests.support.model_server import FOREGROUND, Body, ModelServer, deleting, labelled, owner

from quantization_api.failures import PERMANENT_EXIT_CODES
from quantization_operator.conditions import rfc3339
from quantization_operator.kube import ApiError
from quantization_operator.parts import RETRY_ANNOTATION
from quantization_operator.snapshots import QJOB_UID_LABEL

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
QUEUE = "kueue.x-k8s.io/queue-name"
FINAL, RETRYABLE, KILLED, TERMINATED = 66, 75, 137, 143

OUTCOMES = ("success", "final", "retryable", "oom", "evicted", "node lost", "forgotten", "told to end")


@dataclass
class Truth:
    """What happened to one job. made: Jobs; made_late: of those, by requests that were given up. corrections: changes
    after which it may start again, if it fails.

    causes: categories a failure may have. blamed: attempts that failed by themselves. taken: pods that were taken
    away or forgotten. no_image_since: when its image could not be pulled for the first time.
    """

    made: int = 0
    made_late: int = 0
    pauses: int = 0
    corrections: int = 0
    removed_by_hand: int = 0
    blamed: int = 0
    taken: set[str] = field(default_factory=set)
    succeeded: bool = False
    causes: set[str] = field(default_factory=set)
    no_image_since: datetime | None = None


class ModelCluster:
    """The cluster of one example; every method is one action of one of its parts."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.server = ModelServer(now, self._admit)
        self.now = now
        self.truth: dict[str, Truth] = defaultdict(Truth)
        self.refuses = 0
        """The code with which the next Job is refused, 0: none."""
        self.without_image: set[str] = set()
        """QuantizationJobs whose image cannot be pulled."""
        self._pods = 0

    def _admit(self, job: Body) -> None:
        if self.refuses:
            code, self.refuses = self.refuses, 0
            raise ApiError(code, "denied the request by a webhook", "Forbidden")
        uid = owner(job)
        if (
            uid in self.server.objects["QuantizationJob"]
        ):  # of one that is gone, the garbage collector removes it
            self.truth[uid].made += 1
        if labelled(job, QUEUE):
            job["spec"]["suspend"] = True

    # --- the user --------------------------------------------------------------------------------------------

    def submit(
        self, name: str, *changes: tuple[str, Any], queue: bool = False, has_image: bool = True
    ) -> str:
        """Apply a QuantizationJob with an output of its own; its uid."""
        body = manifest(("output.uri", f"s3://artifacts/{name}"), *changes)
        body["metadata"] = {"name": name} | ({"labels": {QUEUE: "lq"}} if queue else {})
        uid: str = self.server.create("QuantizationJob", body)["metadata"]["uid"]
        if not has_image:
            self.without_image.add(uid)
        return uid

    def pause(self, uid: str, paused: bool) -> None:
        """Set spec.suspend."""
        if paused:
            self.truth[uid].pauses += 1
        self.server.update("QuantizationJob", uid, lambda body: body["spec"].update(suspend=paused))

    def correct(self, uid: str, annotates: bool) -> None:
        """Change the spec as a hint may ask for, or annotate the object so that it starts again."""
        self.truth[uid].corrections += 1
        value = str(self.truth[uid].corrections)

        def change(body: Body) -> None:
            if annotates:
                body["metadata"].setdefault("annotations", {})[RETRY_ANNOTATION] = value
            else:
                body["spec"]["backoffLimit"] = body["spec"].get("backoffLimit", 3) + 1

        self.server.update("QuantizationJob", uid, change)

    def delete_job_by_hand(self, uid: str) -> None:
        """As `kubectl delete job` does: in the background."""
        job = self.server.objects["Job"][uid]
        truth = self.truth[owner(job)]
        truth.removed_by_hand += 1
        truth.causes.add("JobDeleted")
        self.server.delete("Job", uid)

    # --- the queue, and whoever else may suspend a Job -------------------------------------------------------

    def admit_by_queue(self, uid: str, admitted: bool) -> None:
        """Start a Job, or take back what it runs on."""
        if not _ended(self.server.objects["Job"][uid]):
            self.server.update("Job", uid, lambda body: body["spec"].update(suspend=not admitted))

    # --- the Job controller and the garbage collector --------------------------------------------------------

    def control(self) -> None:
        """One round of both over all objects."""
        for job in list(self.server.objects["Job"].values()):
            uid = job["metadata"]["uid"]
            if owner(job) and owner(job) not in self.server.objects["QuantizationJob"] and not deleting(job):
                self.server.delete("Job", uid)
                continue
            self._account(job)
            self._run(self.server.objects["Job"][uid])
        for pod in list(self.server.objects["Pod"].values()):
            if owner(pod) not in self.server.objects["Job"]:
                gone = self.server.release("Pod", pod["metadata"]["uid"], TRACKING)
                if gone["metadata"]["uid"] in self.server.objects["Pod"]:
                    self.server.delete("Pod", pod["metadata"]["uid"])

    def _account(self, job: Body) -> None:
        """Count the pods that have ended, each once: it holds them by a finalizer until then."""
        for pod in self.pods_of(job):
            if TRACKING not in pod["metadata"].get("finalizers", ()) or not _over(pod):
                continue
            verdict = _verdict(pod)
            if not _ended(job):
                uid, at = job["metadata"]["uid"], rfc3339(self.now())
                self.server.update("Job", uid, lambda body, v=verdict, at=at: _count(body, v, at))
            self.server.release("Pod", pod["metadata"]["uid"], TRACKING)

    def _run(self, job: Body) -> None:
        uid, pods = job["metadata"]["uid"], self.pods_of(job)
        active = [pod for pod in pods if not _over(pod)]
        if deleting(job):
            for pod in pods:
                self.server.delete("Pod", pod["metadata"]["uid"])
            if not self.pods_of(job):
                self.server.release("Job", uid, FOREGROUND)
        elif _ended(job) or job["spec"].get("suspend"):
            for pod in active:
                self.server.delete("Pod", pod["metadata"]["uid"])
        else:
            taken = {labelled(pod, INDEX) for pod in [*active, *map(_if_succeeded, pods)] if pod}
            for index in range(job["spec"].get("completions", 1)):
                if str(index) not in taken:
                    self._make_pod(job, str(index))

    def _make_pod(self, job: Body, index: str) -> None:
        """One pod for each number that has not succeeded; a Job that is not Indexed is one with the number 0."""
        self._pods += 1
        metadata = {
            "name": f"{job['metadata']['name']}-{self._pods:05}",
            "labels": job["spec"]["template"]["metadata"]["labels"] | {INDEX: index},
            "ownerReferences": controlled_by("Job", job["metadata"]["name"], job["metadata"]["uid"]),
            "finalizers": [TRACKING],
        }
        self.server.create("Pod", {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}})

    def pods_of(self, job: Body) -> list[Body]:
        """The pods that a Job made."""
        return [pod for pod in self.server.objects["Pod"].values() if owner(pod) == job["metadata"]["uid"]]

    # --- the kubelet and what happens to nodes ---------------------------------------------------------------

    def start(self, uid: str) -> None:
        """Run the container of a pod, or say why its image does not come."""
        pod = self.server.objects["Pod"][uid]
        if pod["status"]["phase"] != "Pending" or deleting(pod):
            return
        request = labelled(pod, QJOB_UID_LABEL)
        if request in self.without_image:
            truth = self.truth[request]
            truth.causes.add("ImagePullFailed")
            truth.no_image_since = truth.no_image_since or self.now()
            self._say(
                uid, "Pending", {"waiting": {"reason": "ErrImagePull", "message": "not found"}}, node="n1"
            )
        else:
            self._say(uid, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, node="n1")

    def end(self, uid: str, outcome: str) -> None:
        """End a pod: as it is told to when it is going away, else with an outcome."""
        pod = self.server.objects["Pod"][uid]
        if _over(pod):
            return
        truth = self.truth[labelled(pod, QJOB_UID_LABEL)]
        orphan = owner(pod) not in self.server.objects["Job"]  # the garbage collector is on its way
        if (deleting(pod) or orphan) and outcome != "node lost":
            outcome = "told to end"
        match outcome:
            case "success":
                self._ended(uid, 0, message_of(self.server.objects["Job"][owner(pod)]), "Completed")
                truth.succeeded = True
            case "final":
                self._ended(uid, FINAL, failed_result("ModelNotFound"))
                truth.blamed += 1
                truth.causes.add("ModelNotFound")
            case "retryable":
                self._ended(uid, RETRYABLE, failed_result("StorageUnavailable"))
                truth.blamed += 1
                truth.causes.add("StorageUnavailable")
            case "oom":
                self._ended(uid, KILLED, reason="OOMKilled")
                truth.blamed += 1
                truth.causes.add("HostOutOfMemory")
            case "evicted":
                self._ended(uid, TERMINATED, conditions=[disruption()])
                truth.taken.add(uid)
            case "node lost":
                self._lose_node(uid)
            case "forgotten":
                self._ended(uid, KILLED, reason="ContainerStatusUnknown")
                truth.taken.add(uid)
                truth.causes.add("Disrupted")  # Kubernetes counts it: with no attempts left, it ends the Job
            case "told to end":
                self._ended(uid, TERMINATED)
                truth.taken.add(uid)
        self._let_go(uid)

    def stop(self) -> None:
        """All that is told to end does, and goes."""
        self.control()
        for uid, pod in list(self.server.objects["Pod"].items()):
            if deleting(pod):
                self.end(uid, "told to end")
        self.control()

    def _lose_node(self, uid: str) -> None:
        """The pod stays, terminating, until somebody hears of the node again."""
        pod = self.server.objects["Pod"][uid]
        if pod["status"].get("conditions"):
            self._ended(uid, KILLED, conditions=pod["status"]["conditions"])
            return
        self.truth[labelled(pod, QJOB_UID_LABEL)].taken.add(uid)
        lost = disruption("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        self.server.update("Pod", uid, lambda body: body["status"].update(conditions=[lost]))
        self.server.delete("Pod", uid)

    def _ended(
        self,
        uid: str,
        code: int,
        message: str = "",
        reason: str = "Error",
        conditions: list[Body] | None = None,
    ) -> None:
        ended = {"exitCode": code, "reason": reason, "message": message, "finishedAt": "2026-01-01T00:10:00Z"}
        known = self.server.objects["Pod"][uid]["status"].get("conditions", [])
        phase = "Failed" if code else "Succeeded"
        self._say(uid, phase, {"terminated": ended}, conditions=conditions or known, node="n1")

    def _say(
        self, uid: str, phase: str, state: Body, conditions: list[Body] | None = None, node: str = ""
    ) -> None:
        status = {
            "phase": phase,
            "conditions": conditions or [],
            "containerStatuses": [{"name": "quantizer", "state": state}],
        }

        def write(body: Body) -> None:
            body["spec"]["nodeName"] = node
            body["status"] = json.loads(json.dumps(status))

        self.server.update("Pod", uid, write)

    def _let_go(self, uid: str) -> None:
        pod = self.server.objects["Pod"].get(uid)
        if pod is not None and deleting(pod) and _over(pod):
            self.server.update("Pod", uid, lambda _body: None)


def _over(pod: Body) -> bool:
    return pod["status"]["phase"] in ("Failed", "Succeeded")


def _if_succeeded(pod: Body) -> Body:
    return pod if pod["status"]["phase"] == "Succeeded" else {}


def _ended(job: Body) -> bool:
    return bool(job.get("status", {}).get("conditions"))


def _verdict(pod: Body) -> str:
    """What podFailurePolicy makes of a pod: the first rule that matches (`policies/retry.py`)."""
    if pod["status"]["phase"] == "Succeeded":
        return "succeeded"
    if any(c["type"] == "DisruptionTarget" for c in pod["status"]["conditions"]):
        return "ignored"
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    if code == TERMINATED:
        return "ignored"
    return "fails the Job" if code in PERMANENT_EXIT_CODES else "failed"


def _count(job: Body, verdict: str, at: str) -> None:
    status = job.setdefault("status", {})
    if verdict in ("failed", "fails the Job"):
        status["failed"] = status.get("failed", 0) + 1
    if verdict == "succeeded":
        status["succeeded"] = status.get("succeeded", 0) + 1
    if status.get("succeeded", 0) >= job["spec"].get("completions", 1):
        status |= {
            "completionTime": at,
            "conditions": [_final("Complete", "CompletionsReached", at)],
        }
    elif verdict == "fails the Job":
        status["conditions"] = [_final("Failed", "PodFailurePolicy", at)]
    elif status.get("failed", 0) > job["spec"]["backoffLimit"]:
        status["conditions"] = [_final("Failed", "BackoffLimitExceeded", at)]


def _final(kind: str, reason: str, at: str) -> Body:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": at,
    }
