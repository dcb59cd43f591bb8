"""Reads from a job's storage by a short-lived pod, which has the account, the volumes and the network of the job.

So nobody needs credentials on their own machine, and the operator needs no right for it: the pod is made with the
rights of whoever asks, and it is removed again. It asks for no GPU.
"""

import json
import secrets
import sys
import time
from collections.abc import Callable, Sequence

from kubectl_quantization.cluster import Cluster, Document, PluginError
from quantization_api.constants import CONTAINER_NAME, QJOB_UID_LABEL, REQUEST_ENV
from quantization_api.text import clean

LIMIT_SECONDS = 300
PAUSE_SECONDS = 1.0
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
COMPONENT = "reader"
OWN_KEYS = ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "volumes", "securityContext")
"""Of a job's pod, what decides where it can run, and what it sees."""


def read_by_pod(
    cluster: Cluster, job: Document, words: Sequence[str], pause: Callable[[float], None] = time.sleep
) -> str:
    """What a command of the quantizer prints where the job runs; the storage's address is added to it.

    Raises:
        PluginError: the job has no Job to take the pod from, or the pod does not run or fails.
    """
    near = cluster.beside(job["metadata"]["namespace"])
    pod = reader(job, _template(near, job, words), words)
    name = pod["metadata"]["name"]
    near.kubectl("create", "--filename=-", stdin=json.dumps(pod))
    print(f"# the pod {name} reads it; this takes some seconds", file=sys.stderr)
    try:
        phase = _ended(near, name, pause)
        said = near.kubectl("logs", name, f"--container={CONTAINER_NAME}")
    finally:
        near.kubectl("delete", "pod", name, "--wait=false", "--ignore-not-found")
    if phase != "Succeeded":
        raise PluginError(f"It could not be read: {clean(said) or 'the pod failed without a word'}")
    return said


def reader(job: Document, template: Document, words: Sequence[str]) -> Document:
    """The pod that runs `quantizer WORDS`, made from the pod of the job's Job."""
    work = next(each for each in template["containers"] if each["name"] == CONTAINER_NAME)
    storage = job["spec"].get("storage", {})
    address = [f"--{key}={storage[key]}" for key in ("endpoint", "region") if storage.get(key)]
    kept = {
        key: work[key]
        for key in ("image", "imagePullPolicy", "securityContext", "volumeMounts")
        if key in work
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job['metadata']['name'].replace('.', '-')[:40]}-read-{secrets.token_hex(3)}",
            "labels": {
                "app.kubernetes.io/name": "quantizer",
                "app.kubernetes.io/component": COMPONENT,
                "app.kubernetes.io/part-of": "quantization",
            },
        },
        "spec": {
            **{key: template[key] for key in (*OWN_KEYS, "serviceAccountName") if key in template},
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "activeDeadlineSeconds": LIMIT_SECONDS,
            "containers": [
                {
                    "name": CONTAINER_NAME,
                    **kept,
                    # Kubernetes expands $(NAME) in an argument, also to secrets; $$ is a dollar.
                    "args": [word.replace("$", "$$") for word in (words[0], *address, *words[1:])],
                    "env": [each for each in work.get("env", []) if each["name"] != REQUEST_ENV],
                    "resources": RESOURCES,
                }
            ],
        },
    }


def _template(cluster: Cluster, job: Document, words: Sequence[str]) -> Document:
    name = job.get("status", {}).get("jobName")
    found = cluster.listing("jobs", f"--selector={QJOB_UID_LABEL}={job['metadata']['uid']}") if name else []
    if not found:
        raise PluginError(
            "The job has no Job any more, so its image is not known. Where you can reach the storage yourself: "
            f"quantizer {words[0]} {words[-1]}"
        )
    template: Document = found[-1]["spec"]["template"]["spec"]
    return template


def _ended(cluster: Cluster, name: str, pause: Callable[[float], None]) -> str:
    """The phase in which a pod ended.

    Raises:
        PluginError: it has not ended in time.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        status = cluster.read("pod", name).get("status", {})
        if (phase := status.get("phase", "")) in ("Succeeded", "Failed"):
            return str(phase)
        pause(PAUSE_SECONDS)
    waits = [each.get("message", "") for each in status.get("conditions", []) if each["status"] != "True"]
    raise PluginError(
        f"The pod {name} has not ended within {LIMIT_SECONDS} s: {clean(' '.join(waits)) or 'no reason given'}"
    )
