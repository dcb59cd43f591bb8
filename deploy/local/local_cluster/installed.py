"""What of this project is in a cluster, found by its labels and removed by name."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from local_cluster.kubectl import Kubectl
from quantization_api import GROUP, PLURAL

Object = dict[str, Any]

DEFINITION = f"{PLURAL}.{GROUP}"
FINALIZER = f"{GROUP}/artifact"
"""What the operator puts on an object whose artifact goes with it; nobody else takes it off."""
LEASE = "quantization-operator-leader"
WORKLOADS = "app.kubernetes.io/managed-by=quantization-operator"
_OURS = "app.kubernetes.io/part-of=quantization"
_OPERATORS_NAMES = ("quantization-operator", "quantizer")
_OPERATORS_KINDS = (
    *("deployments", "services", "configmaps", "serviceaccounts", "poddisruptionbudgets", "networkpolicies"),
    *("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
)
_KINDS_BESIDE = ("clusterroles", "validatingadmissionpolicies", "validatingadmissionpolicybindings")
_MONITORING = "monitoring.coreos.com"
_NAMES_A_CALL = 100
_BEAT_SECONDS = 5.0
"""A leader renews its lease every 1.5 s."""


class Installed:
    """The project's objects in one cluster."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def definition(self) -> Object | None:
        """The CustomResourceDefinition; None: there is none."""
        said = self._kubectl("get", "crd", DEFINITION, "--ignore-not-found", "-o", "json").stdout
        found: Object | None = json.loads(said) if said.strip() else None
        return found

    def jobs(self) -> list[Object]:
        """The QuantizationJobs of all namespaces; none where nothing defines the kind."""
        return self._list(DEFINITION) if self.definition() else []

    def workloads(self) -> list[Object]:
        """Jobs and pods that the operator has made, and those of its clean-ups."""
        return self._list("jobs,pods", "-l", WORKLOADS)

    def namespaces(self) -> list[Object]:
        """Namespaces that the operator's manifests have made."""
        return self._list("namespaces", "-l", _OURS)

    def operator(self) -> list[Object]:
        """The operator's own objects in all namespaces, its permissions and what watches it."""
        monitoring = self._kubectl("api-resources", f"--api-group={_MONITORING}", "-o", "name", check=False)
        kinds = ",".join([*_OPERATORS_KINDS, *monitoring.stdout.split()])
        return [found for found in self._list(kinds, "-l", _OURS) if _is_operators(found)]

    def beside_the_kind(self) -> list[Object]:
        """Roles of people, and policies, which mean nothing without the kind."""
        found = self._list(",".join(_KINDS_BESIDE), "-l", _OURS)
        return [each for each in found if each["metadata"]["name"].startswith("quantization-")]

    def leases(self) -> list[Object]:
        """The leases by which replicas agree who acts."""
        return self._list("leases", f"--field-selector=metadata.name={LEASE}")

    def an_operator_acts(
        self, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> bool:
        """Whether somebody renews a lease right now; takes seconds where nobody does."""
        before, deadline = self._beats(), clock() + _BEAT_SECONDS
        while before and clock() < deadline:
            if self._beats() != before:
                return True
            pause(0.3)
        return False

    def _beats(self) -> list[str]:
        specs = [lease.get("spec", {}) for lease in self.leases()]
        return [spec["renewTime"] for spec in specs if spec.get("holderIdentity") and spec.get("renewTime")]

    def remove(self, objects: Iterable[Object]) -> None:
        """Delete these objects and wait for nothing."""
        named = [_named(each) for each in objects]
        if named:
            self._kubectl(
                "delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=yaml.safe_dump_all(named)
            )

    def remove_jobs(self) -> None:
        """Delete every QuantizationJob and wait for nothing."""
        self._kubectl("delete", DEFINITION, "--all", "--all-namespaces", "--wait=false")

    def remove_definition(self) -> None:
        """Delete the kind, on purpose, and wait for nothing."""
        self._kubectl("annotate", "crd", DEFINITION, f"{GROUP}/delete=allowed", "--overwrite", check=False)
        self._kubectl("delete", "crd", DEFINITION, "--ignore-not-found", "--wait=false")

    def release(self, jobs: Iterable[Object]) -> None:
        """Take the operator's finalizer off these objects, and no other's."""
        alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
        for job in jobs:
            others = tuple(each for each in finalizers(job) if each != FINALIZER)
            if len(others) < len(finalizers(job)):
                alike[job["metadata"]["namespace"], others].append(job["metadata"]["name"])
        for (namespace, others), names in alike.items():
            patch = json.dumps({"metadata": {"finalizers": list(others) or None}})
            for first in range(0, len(names), _NAMES_A_CALL):
                some = names[first : first + _NAMES_A_CALL]
                # One that is gone by now is no error: that is what is wanted.
                self._kubectl(
                    *("patch", DEFINITION, *some, "-n", namespace, "--type=merge", "-p", patch), check=False
                )

    def _list(self, kinds: str, *options: str) -> list[Object]:
        said = self._kubectl("get", kinds, "--all-namespaces", *options, "-o", "json").stdout
        items: list[Object] = json.loads(said)["items"]
        return items


def finalizers(body: Object) -> list[str]:
    """Who has to let an object go before it is gone."""
    return list(body["metadata"].get("finalizers") or ())


def helm_release(body: Object) -> tuple[str, str] | None:
    """Name and namespace of the Helm release that an object belongs to; None: it belongs to none."""
    if (body["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") != "Helm":
        return None
    notes = body["metadata"].get("annotations") or {}
    return notes.get("meta.helm.sh/release-name", "RELEASE"), notes.get(
        "meta.helm.sh/release-namespace", "NAMESPACE"
    )


def _is_operators(body: Object) -> bool:
    return bool(body["metadata"]["name"].startswith(_OPERATORS_NAMES))


def _named(body: Object) -> Object:
    metadata = {key: body["metadata"][key] for key in ("name", "namespace") if key in body["metadata"]}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata}
