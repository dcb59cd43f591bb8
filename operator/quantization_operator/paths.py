"""The paths of the API server that the operator uses: with RBAC in deploy/base, the whole of its reach."""

from quantization_api import GROUP, PLURAL, VERSION
from quantization_operator.identity import Kind

_ROOTS: dict[Kind, tuple[str, str]] = {
    "QuantizationJob": (f"/apis/{GROUP}/{VERSION}", PLURAL),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
}


def collection(kind: Kind, namespace: str | None) -> str:
    """All objects of a kind, in one namespace or in all."""
    root, plural = _ROOTS[kind]
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def item(kind: Kind, namespace: str, name: str) -> str:
    """One object."""
    return f"{collection(kind, namespace)}/{name}"


def events(namespace: str) -> str:
    """The events of a namespace (core/v1: also read by old kubectl)."""
    return f"/api/v1/namespaces/{namespace}/events"


def leases(namespace: str) -> str:
    """The Leases of a namespace."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def lease(namespace: str, name: str) -> str:
    """One Lease."""
    return f"{leases(namespace)}/{name}"


def workloads(namespace: str) -> str:
    """Kueue's Workloads of a namespace."""
    return f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{namespace}/workloads"


def pending_workloads(namespace: str, queue: str) -> str:
    """The Workloads that wait in a LocalQueue, in their order, as Kueue's visibility server tells it."""
    return (
        f"/apis/visibility.kueue.x-k8s.io/v1beta2/namespaces/{namespace}/localqueues/{queue}/pendingworkloads"
    )
