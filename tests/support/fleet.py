"""A hundred jobs in every state of a life, for one operator to bring there and for the next one to take up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.cluster_objects import failed_result
from tests.support.operator_cluster import Cluster
from tests.support.operator_process import until

Change = tuple[str, Any]
DELETE: Change = ("artifactPolicy", "Delete")
COUNTS = {
    "queued": 15,
    "running": 20,
    "retried": 10,
    "succeeded": 15,
    "failed": 10,
    "kept": 5,
    "paused": 5,
    "leaving": 5,
    "late": 15,
}
"""How many of each, a hundred together. kept: succeeded, with an artifact that goes with the object. leaving: its
clean-up runs. late: submitted while the operator is stopped."""
CHANGES: dict[str, tuple[Change, ...]] = {"kept": (DELETE,), "leaving": (DELETE,)}
BEGAN = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
PATIENCE = 180.0
"""Seconds for a hundred jobs to reach what one reaches at once."""


class Fleet:
    """The jobs of COUNTS in one cluster. address: of the page that says how far their pods are."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self.cluster = cluster
        self.uids: dict[str, str] = {}
        self._address = address

    def names(self, *states: str) -> list[str]:
        return [f"{state}-{number}" for state in states for number in range(COUNTS[state])]

    def submit(self, *names: str) -> None:
        for name in names:
            state = name.partition("-")[0]
            self.uids[name] = self.cluster.create(name, *CHANGES.get(state, ()))

    def bring(self) -> None:
        """Submit all but those that come late, and bring each into its state; an operator runs."""
        states = {
            "queued": self.is_pending,
            "running": self.runs,
            "retried": self.is_retried,
            "succeeded": self.succeeds,
            "failed": self.fails,
            "kept": self.succeeds,
            "paused": self.is_paused,
            "leaving": self.leaves,
        }
        self.submit(*self.names(*states))
        for state, step in states.items():
            self.each(step, *self.names(state))

    def each(self, step: Callable[[str], object], *names: str) -> None:
        """A step of all of them, some at once."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(step, names))

    # --- steps -----------------------------------------------------------------------------------------------

    def phase(self, name: str, *wanted: str) -> None:
        """Wait until it is in one of the phases."""
        seen = lambda: self.cluster.status(name).get("phase") in wanted  # noqa: E731
        until(f"{name} is {' or '.join(wanted)}", seen, PATIENCE)

    def is_pending(self, name: str) -> None:
        self.phase(name, "Pending")
        self.cluster.pod(self.uids[name])

    def runs(self, name: str, besides: str = "") -> None:
        pod = self.cluster.pod(self.uids[name], besides)
        place = {"podIP": self._address, "podIPs": [{"ip": self._address}]}
        self.cluster.kubelet_says(pod, "Running", BEGAN, **place)
        self.phase(name, "Running")

    def is_retried(self, name: str) -> None:
        """It failed once and runs again."""
        first = self.cluster.pod(self.uids[name])
        self.cluster.ends(first, 75, failed_result("StorageUnavailable", "no answer"))
        until(f"{name} is counted", lambda: self.attempts(name) == 1, PATIENCE)
        self.runs(name, besides=first)

    def ends_well(self, name: str) -> None:
        """Its pod does; an operator need not run."""
        self.cluster.succeeds(self.living(name))

    def succeeds(self, name: str) -> None:
        self.ends_well(name)
        self.phase(name, "Succeeded")

    def fails(self, name: str) -> None:
        pod = self.cluster.pod(self.uids[name])
        self.cluster.ends(pod, 66, failed_result("ModelNotFound", "there is no such model"))
        self.phase(name, "Failed")

    def is_paused(self, name: str) -> None:
        self.runs(name)
        self.cluster.patch("qj", name, {"spec": {"suspend": True}})
        self.phase(name, "Suspended")

    def goes_on(self, name: str) -> None:
        self.cluster.patch("qj", name, {"spec": {"suspend": False}})
        self.phase(name, "Pending")

    def leaves(self, name: str) -> None:
        """It is deleted, and the pod that removes its artifact begins."""
        self.runs(name)
        self.cluster.delete("qj", name)
        self.cluster.kubelet_says(self.cleaner(name), "Running", BEGAN)

    def is_gone(self, name: str) -> None:
        """Its artifact is removed, and then it goes."""
        self.cluster.ends(self.cleaner(name), 0)
        until(f"{name} is gone", lambda: not self.cluster.read("qj", name), PATIENCE)

    # --- what there is ---------------------------------------------------------------------------------------

    def attempts(self, name: str) -> int:
        """That failed."""
        return int(self.cluster.status(name).get("attempts", {}).get("failed", 0))

    def living(self, name: str) -> str:
        """The pod of a job that has not ended."""
        return self._pod(name, "job")

    def cleaner(self, name: str) -> str:
        """The pod that removes its artifact."""
        return self._pod(name, "cleanup")

    def _pod(self, name: str, component: str) -> str:
        of = f"quantization.dev/job-uid={self.uids[name]},app.kubernetes.io/component={component}"

        def found() -> str:
            pods = self.cluster.items("pods", of)
            return next((p["metadata"]["name"] for p in pods if not _ended(p)), "")

        return until(f"a pod of {name}", found, PATIENCE)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Of all that are there, by name."""
        return {body["metadata"]["name"]: body.get("status", {}) for body in self.cluster.items("qj")}


def _ended(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]
