"""What to change in the manifest, from the words of the kubelet, the scheduler and admission. Pure.

A table for each thing that can say no: the first pattern found in the message gives the cure. A message that no
pattern knows gets "", and with it the catalogue's cure of its category.
"""

import re
from collections.abc import Sequence

Table = Sequence[tuple[str, str]]
GPU = r"[a-z0-9.-]+/(?:gpu|mig-)[A-Za-z0-9._-]*(?<![._-])"
"""A resource that is a GPU, a share or a slice of one, as vendors name them."""

IMAGE: Table = (
    (
        r"^InvalidImageName",
        "Correct spec.template.image: it is not an image name (REGISTRY/NAME:TAG, lower case, no https://).",
    ),
    (
        r"unauthorized|authentication|denied|\b40[13]\b|no basic auth",
        "Name a Secret for the registry in spec.template.imagePullSecrets, or correct spec.template.image.",
    ),
    (
        r"no match for platform|exec format",
        "Name an image for the node's architecture in spec.template.image, or choose nodes with "
        "spec.template.nodeSelector (kubernetes.io/arch).",
    ),
    (
        r"dial tcp|no such host|timeout|connection refused|x509",
        "The node cannot reach the registry: correct its name in spec.template.image, or the cluster's network.",
    ),
    (r"^ErrImageNeverPull", "Change spec.template.imagePullPolicy, or load the image onto the node."),
    (r"not found|manifest unknown", "Correct spec.template.image: the registry has no such image or tag."),
)

CONFIGURATION: Table = (
    (
        r"runAsNonRoot|run as root",
        "Name an image in spec.template.image whose user is a number other than 0.",
    ),
    (
        r"configmap|persistentvolumeclaim|volume|mount",
        "Correct spec.template.volumes or env: what they name must exist in the job's namespace.",
    ),
    (
        r"executable file not found|no such file|permission denied|exec",
        "Correct spec.template.image: it must be an image of the quantizer for the node's architecture.",
    ),
)

SECRET: Table = (
    (
        r"find key ([-._a-zA-Z0-9]+) in",
        "Add the key {} to the Secret, or correct the name of the key in spec.storage.credentialsSecret or "
        "spec.template.env.",
    ),
    (
        r"",
        "Create the Secret in the job's namespace, or correct its name in spec.storage.credentialsSecret or "
        "spec.template.",
    ),
)

SCHEDULING: Table = (
    (
        r"persistentvolumeclaim|unbound immediate",
        "Correct the claim in spec.template.volumes, or create it in the job's namespace.",
    ),
    (
        rf"Insufficient ({GPU})",
        "Lower {} in spec.template.resources.limits, or add nodes with GPUs. Nodes name what they offer, shared GPUs "
        "and MIG slices too, under status.allocatable: kubectl describe nodes.",
    ),
    (r"Insufficient memory", "Lower spec.template.resources.requests.memory, or add larger nodes."),
    (r"Insufficient cpu", "Lower spec.template.resources.requests.cpu, or add larger nodes."),
    (
        r"Insufficient ephemeral-storage",
        "Lower spec.template.scratchSize, or add nodes with larger disks.",
    ),
    (
        r"Insufficient (\S+?)[,.]?(?:\s|$)",
        "Lower {} in spec.template.resources.limits, or add nodes that have it.",
    ),
    (
        r"node affinity|node selector",
        "Correct spec.template.nodeSelector or affinity: no node has what they ask for.",
    ),
    (r"untolerated taint|taint", "Add the taint to spec.template.tolerations, or add nodes without it."),
    (r"too many pods|Too many pods", "Wait until pods end, or add nodes."),
)

REFUSED_POD: Table = (
    (
        r"PodSecurity",
        "Remove from spec.template what the message names, or choose a namespace whose "
        "pod-security.kubernetes.io/enforce label allows it.",
    ),
    (
        r"exceeded quota|failed quota",
        "Lower or set spec.template.resources as the message says, or raise the namespace's ResourceQuota.",
    ),
    (
        r"must be less than or equal to (\S+) limit",
        "Set spec.template.resources.limits ({}) too: where a limit is left out, a LimitRange of the namespace gives "
        "its default, which is less than what is requested.",
    ),
    (
        r"maximum .* usage|minimum .* usage|limit to request ratio",
        "Bring spec.template.resources within the namespace's LimitRange.",
    ),
    (
        r"""admission webhook .* denied|[Pp]olicy ['"].* denied request""",
        "Change what the message names in spec.template, or ask the owner of that policy for an exception.",
    ),
    (
        r"failed calling webhook",
        "The policy server does not answer: ask its administrator. Nothing is wrong with the manifest.",
    ),
)

REFUSED_JOB: Table = (
    (
        r"cannot create resource",
        "The operator may not create Jobs here: its administrator must grant it the role of deploy/base.",
    ),
    (r"is being terminated", "The namespace is being deleted: apply the job in another one."),
    (
        r"count/jobs",
        "Delete Jobs of the namespace that are no longer needed, or raise its ResourceQuota.",
    ),
    *REFUSED_POD,
    (
        r"",
        "The message says what rejected the Job: ask its owner. The Job is created as soon as it is allowed.",
    ),
)

DISRUPTION: Table = (
    (
        r"low on resource: (ephemeral-storage|nodefs|imagefs|inodes)",
        "Raise spec.template.resources.requests (ephemeral-storage) to what the job needs, so that a node with "
        "enough room is chosen.",
    ),
    (
        r"low on resource: memory",
        "Raise spec.template.resources.requests.memory to what the job needs, so that it is not evicted first.",
    ),
    (
        r"^PreemptionByScheduler",
        "A pod of higher priority needed the place: raise spec.template.priorityClassName, or start the job again when "
        "there is room (annotation quantization.dev/retry).",
    ),
)


def cure(table: Table, message: str) -> str:
    """The cure for a message, or ""; {} in it is what the pattern's first group has found."""
    for pattern, text in table:
        if found := re.search(pattern, message):
            return text.replace("{}", found[1]) if "{}" in text else text
    return ""
