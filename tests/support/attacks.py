"""What a tenant can do to a cluster with the operator: objects as no client of good will would write them."""

import json
from typing import Any

import yaml
from tests.support.bearer import Bearer
from tests.support.cluster_objects import RESULT, controlled_by
from tests.support.operator_process import make_namespace

from local_cluster.control_plane import ApiServer
from quantization_operator.snapshots import GENERATION_ANNOTATION, QJOB_UID_LABEL
from quantization_operator.workload import MANAGED_BY

EVERYTHING = ["create", "get", "list", "delete", "patch", "update"]
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD_SPEC = {
    "restartPolicy": "Never",
    "containers": [{"name": "quantizer", "image": "x", "securityContext": SECURITY}],
}


class Tenant:
    """A service account that may do what it likes with some resources of its own namespace."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        make_namespace(api, namespace)
        self._grant()
        self.ask = Bearer(api, namespace, "tenant").ask

    def _grant(self) -> None:
        """As an administrator does."""
        named = {"name": "tenant", "namespace": self.namespace}
        rbac = "rbac.authorization.k8s.io"
        rules = [
            {"apiGroups": ["", "batch"], "resources": ["pods", "jobs", "events"], "verbs": EVERYTHING},
            {
                "apiGroups": ["", "batch", "quantization.dev"],
                "resources": ["pods/status", "jobs/status", "quantizationjobs", "quantizationjobs/status"],
                "verbs": EVERYTHING,
            },
        ]
        documents = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": named, "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": named,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "tenant"},
                "subjects": [{"kind": "ServiceAccount", **named}],
            },
        ]
        self.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def create(self, body: Any, kind: str = "") -> str:
        """Create an object; a text is sent as it is, and then says what kind. The answer's beginning."""
        kind = kind or body["kind"]
        root = {"Pod": "/api/v1", "Event": "/api/v1", "Job": "/apis/batch/v1"}.get(
            kind, "/apis/quantization.dev/v1alpha1"
        )
        code, text = self.ask("POST", f"{root}/namespaces/{self.namespace}/{kind.lower()}s", body)
        assert code == 201, text
        return text

    def status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        """Set a status, as nobody but a controller should."""
        root = {"Pod": "/api/v1", "Job": "/apis/batch/v1"}.get(kind, "/apis/quantization.dev/v1alpha1")
        path = f"{root}/namespaces/{self.namespace}/{kind.lower()}s/{name}/status"
        code, text = self.ask("PATCH", path, {"status": status}, "application/merge-patch+json")
        assert code == 200, text


def labels(uid: str) -> dict[str, str]:
    """Those by which the operator watches."""
    return {"app.kubernetes.io/managed-by": MANAGED_BY, QJOB_UID_LABEL: uid}


def a_pod(name: str, uid: str, **metadata: Any) -> dict[str, Any]:
    """A pod that says that it belongs to a QuantizationJob."""
    metadata = {"name": name, "labels": labels(uid)} | metadata
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": POD_SPEC}


def a_job(name: str, uid: str, **metadata: Any) -> dict[str, Any]:
    """A Job that says so; it is suspended, so that it makes no pods."""
    metadata = {"name": name, "labels": labels(uid)} | metadata
    template = {"metadata": {"labels": labels(uid)}, "spec": POD_SPEC}
    spec = {"suspend": True, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def a_forged_job(name: str, victim: str, uid: str) -> dict[str, Any]:
    """A Job that looks in every part like the one that the operator makes, in another namespace."""
    return a_job(
        name,
        uid,
        annotations={GENERATION_ANNOTATION: "1"},
        finalizers=["evil.example/hold"],
        ownerReferences=controlled_by("QuantizationJob", victim, uid),
    )


def forged_result() -> str:
    """The termination message of a pod that succeeded with the attacker's artifact."""
    assert RESULT.artifact is not None
    made = RESULT.artifact.model_copy(update={"uri": "s3://attacker/backdoored-model"})
    return RESULT.model_copy(update={"artifact": made}).to_message()


def nested(levels: int, inner: str = "{}") -> str:
    """Objects in objects, as JSON."""
    return '{"f:a":' * levels + inner + "}" * levels


def with_deep_fields(body: dict[str, Any], levels: int) -> str:
    """An object with managedFields of so many levels."""
    fields = {"manager": "x", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z"}
    body["metadata"]["managedFields"] = [fields | {"fieldsType": "FieldsV1", "fieldsV1": "DEEP"}]
    return json.dumps(body).replace('"DEEP"', nested(levels))
