"""Plays many stories at once on a real API server, behind whose proxy an operator works, and watches what it does."""

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config
from tests.support.fault_proxy import FaultProxy
from tests.support.manifests import manifest
from tests.support.operator_process import Operator, until
from tests.support.status_rules import Body, judge
from tests.support.stories import OUTCOMES, STORIES, Life, ended_pod, running_pod, story

from quantization_operator import paths
from quantization_operator.kube import MERGE_PATCH, ApiError, Connection
from quantization_operator.snapshots import QJOB_UID_LABEL

NAME = re.compile(r"\bs\d{4}\b")
TURN_SECONDS = 0.2
TIMEOUT_SECONDS = 10.0
PROBE_SECONDS, PROBES = 1.0, 3
"""How often the watchman asks whether the operator is well, and after how many complaints in a row it is killed."""


def subject(path: str, body: str) -> str:
    """Whose request it is: the schedule's name is in the path or the body; the rest is one subject more."""
    found = NAME.search(path) or NAME.search(body)
    return found[0] if found else "others"


class Batch:
    """Schedules that share an operator and a namespace; each has a story and faults of its own."""

    def __init__(self, kubeconfig: Path, namespace: str, seeds: list[int]) -> None:
        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        configuration.retries = False
        self._configuration = configuration
        self._api = Connection(configuration)
        self.namespace = namespace
        self.lives: dict[str, Life] = {}
        self._names = {f"s{seed:04}": story(str(seed)) for seed in seeds}
        self._wrong: dict[str, list[str]] = defaultdict(list)
        self._stop = threading.Event()
        self._sat_down = threading.Barrier(3)

    def title(self, name: str) -> str:
        """The story of a schedule."""
        return self._names[name]

    # --- requests, past the proxy ----------------------------------------------------------------------------

    def ask(self, method: str, path: str, **more: Any) -> Body:
        """One request; {} when the object is gone."""
        try:
            return self._api.request(method, path, TIMEOUT_SECONDS, **more)
        except ApiError as error:
            if error.code == 404:
                return {}
            raise

    def patch(self, kind: Any, name: str, body: Body, sub: str = "") -> None:
        """A merge patch."""
        path = paths.item(kind, self.namespace, name) + sub
        self.ask("PATCH", path, body=body, content_type=MERGE_PATCH)

    def items(self, kind: Any) -> list[Body]:
        """All objects of a kind in the namespace."""
        found: list[Body] = self.ask("GET", paths.collection(kind, self.namespace)).get("items") or []
        return found

    # --- the play --------------------------------------------------------------------------------------------

    def submit(self) -> None:
        """Apply all jobs."""
        for name, title in self._names.items():
            told = STORIES[title]
            body = manifest(("output.uri", f"s3://artifacts/{name}"), *told.changes)
            body["metadata"] = {"name": name, "namespace": self.namespace}
            path = paths.collection("QuantizationJob", self.namespace)
            made = self._api.request("POST", path, TIMEOUT_SECONDS, body=body)
            self.lives[name] = Life(name, made["metadata"]["uid"], told)

    def turn(self) -> list[str]:
        """Let each story go on where it can; the names of those that are not over."""
        requests = {body["metadata"]["name"]: body for body in self.items("QuantizationJob")}
        by_uid = {life.uid: life for life in self.lives.values()}
        for pod in self.items("Pod"):
            life = by_uid.get(pod["metadata"]["labels"][QJOB_UID_LABEL])
            if life is not None:
                self._play(life, pod, requests.get(life.name, {}))
        going = self._going()
        for life in self.lives.values():
            if life.name not in going:
                self._resume(life, requests.get(life.name, {}))
        return [n for n, life in self.lives.items() if n in going or not life.over(requests.get(n))]

    def _going(self) -> set[str]:
        """Whose Job has not ended and is not going away."""
        jobs = [job["metadata"] for job in self.items("Job") if not job.get("status", {}).get("conditions")]
        return {subject(metadata["name"], "") for metadata in jobs if "deletionTimestamp" not in metadata}

    def _play(self, life: Life, pod: Body, request: Body) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase")
        if phase in ("Failed", "Succeeded"):
            return
        if pod["metadata"].get("deletionTimestamp"):
            self.ask("DELETE", paths.item("Pod", self.namespace, name), query={"gracePeriodSeconds": "0"})
            return
        if name in life.pods or life.done == len(life.story.steps):
            return
        if phase == "Pending":
            self.patch("Pod", name, json.loads(running_pod()), "/status")
            return
        if request.get("status", {}).get("phase") != "Running":
            return  # a step is taken when the operator has seen the one before
        step = life.story.steps[life.done]
        life.pods.add(name)
        life.done += 1
        if step in OUTCOMES:
            self.patch("Pod", name, json.loads(ended_pod(step, pod)), "/status")
        elif step == "pause":
            life.paused = True
            self.patch("QuantizationJob", life.name, {"spec": {"suspend": True}})
        elif step == "delete":
            self.ask("DELETE", paths.item("QuantizationJob", self.namespace, life.name))
        elif step == "delete the Job":
            (reference,) = pod["metadata"]["ownerReferences"]
            path = paths.item("Job", self.namespace, reference["name"])
            self.ask("DELETE", path, body={"propagationPolicy": "Background"})

    def _resume(self, life: Life, request: Body) -> None:
        """As a user who waits for the pause to be one: else the Job may go on as if there was none."""
        if life.paused and request.get("status", {}).get("phase") == "Suspended":
            life.paused = False
            self.patch("QuantizationJob", life.name, {"spec": {"suspend": False}})

    # --- the judges ------------------------------------------------------------------------------------------

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Judge, in threads that watch the API server directly, every version of every status and Job."""
        judges = [
            threading.Thread(
                target=self._follow, args=("QuantizationJob", self._judge_status()), daemon=True
            ),
            threading.Thread(target=self._follow, args=("Job", self._judge_job()), daemon=True),
        ]
        for judge_ in judges:
            judge_.start()
        self._sat_down.wait(60)
        try:
            yield
        finally:
            self._stop.set()
            for judge_ in judges:
                judge_.join(10)

    def _follow(self, kind: Any, judged: Callable[[str, Body], None]) -> None:
        try:
            self._watch(kind, judged)
        except Exception as error:  # noqa: BLE001  (a judge that is gone must not be taken for one that is content)
            self._wrong[f"the judge of {kind}"].append(repr(error))

    def _watch(self, kind: Any, judged: Callable[[str, Body], None]) -> None:
        api = client.ApiClient(self._configuration)
        path = paths.collection(kind, self.namespace)
        listed = until("a definition that is served", lambda: self._listed(path))
        version = listed["metadata"]["resourceVersion"]
        self._sat_down.wait(60)
        while not self._stop.is_set():
            query = [("watch", "true"), ("resourceVersion", version), ("timeoutSeconds", "5")]
            arguments = api.param_serialize("GET", path, query_params=query, auth_settings=["BearerToken"])
            answer = api.call_api(*arguments, _request_timeout=30)
            for line in answer.response:
                event = json.loads(line)
                assert "object" in event, event
                version = event["object"]["metadata"]["resourceVersion"]
                judged(event["type"], event["object"])

    def _listed(self, path: str) -> Body:
        """A listing; {} while the API server prepares a definition that is new."""
        try:
            return self.ask("GET", path)
        except ApiError as error:
            if error.temporary:
                return {}
            raise

    def _judge_status(self) -> Callable[[str, Body], None]:
        written: dict[str, Body] = {}

        def judged(_type: str, body: Body) -> None:
            name, status = body["metadata"]["name"], body.get("status", {})
            before = written.get(name, {})
            if status == before:
                return
            written[name] = status
            try:
                assert status, "the status is lost"
                judge(body, before)
                failed = status.get("attempts", {}).get("failed", 0)
                assert failed <= STORIES[self._names[name]].failed, f"{failed} attempts are counted"
            except AssertionError as error:
                self._wrong[name].append(str(error))

        return judged

    def _judge_job(self) -> Callable[[str, Body], None]:
        live: dict[str, set[str]] = defaultdict(set)
        made: dict[str, set[str]] = defaultdict(set)

        def judged(kind: str, body: Body) -> None:
            metadata = body["metadata"]
            name, uid = subject(metadata["name"], ""), metadata["uid"]
            if kind == "DELETED" or "deletionTimestamp" in metadata:
                live[name].discard(uid)
            else:
                live[name].add(uid)
            made[name].add(uid)
            allowed = 1 + STORIES[self._names[name]].steps.count("pause")
            if len(live[name]) > 1 or len(made[name]) > allowed:
                self._wrong[name].append(f"{len(live[name])} live Jobs, {len(made[name])} were made")

        return judged

    def verdicts(self) -> dict[str, list[str]]:
        """What is wrong, by schedule; empty when all is well."""
        requests = {body["metadata"]["name"]: body for body in self.items("QuantizationJob")}
        for name, life in self.lives.items():
            self._wrong[name] += life.verdict(requests.get(name))
        return {f"{name} ({self._names.get(name)})": wrong for name, wrong in self._wrong.items() if wrong}


class Watchman:
    """Starts the operator again whenever it was killed, and kills it when it is not well, as a kubelet does.

    starts: how often it was started. killed: by the proxy. unwell: what it complained of when it was killed for that.
    """

    def __init__(self, make: Callable[[], Operator]) -> None:
        self._make = make
        self._running: Operator | None = None
        self._probed = 0.0
        self._complaints = 0
        self.starts = self.killed = 0
        self.unwell: list[str] = []

    def kill(self) -> None:
        """kill -9, at once."""
        if self._running is not None and self._running.process.poll() is None:
            self._running.process.kill()
            self.killed += 1

    def look(self) -> None:
        """Start it if it does not run; wait for nothing."""
        if self._running is None or self._running.process.poll() is not None:
            if self._running is not None:
                self._running.process.wait()
            self._running = self._make()
            self._running.start()
            self.starts += 1
            self._complaints = 0
        elif time.monotonic() - self._probed >= PROBE_SECONDS:
            self._probe(self._running)

    def _probe(self, running: Operator) -> None:
        self._probed = time.monotonic()
        complaint = running.complaint()
        self._complaints = self._complaints + 1 if complaint else 0
        if self._complaints == PROBES:
            self.unwell.append(complaint.strip())
            running.process.kill()

    def end(self) -> None:
        """No operator any more."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.wait()


def play(batch: Batch, proxy: FaultProxy, watchman: Watchman, limit: float) -> dict[str, list[str]]:
    """Play a batch to its end; what was wrong, by schedule. Whatever has not ended in `limit` seconds is wrong."""
    deadline = time.monotonic() + limit
    with batch.judged():
        batch.submit()
        try:
            left = list(batch.lives)
            while left and time.monotonic() < deadline:
                watchman.look()
                left = batch.turn()
                time.sleep(TURN_SECONDS)
        finally:
            watchman.end()
    wrong = batch.verdicts()
    for name in left:
        wrong.setdefault(f"{name} ({batch.title(name)})", []).append(f"not ended; {batch.lives[name]}")
    return wrong
