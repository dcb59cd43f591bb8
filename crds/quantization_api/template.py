"""The pod that quantizes: what users may choose of it, in the words of core/v1.

A pod has one container, so its fields stand beside those of the pod. What the operator and the pod rely on (what is
run, the restart policy, scratch space, `restricted`) cannot be chosen, and is refused by name.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from quantization_api.affinity import Affinity, Keys, LabelSelector, TopologyKey
from quantization_api.bounded import (
    SHORT_KEYS,
    DnsName,
    LabelKey,
    Labels,
    Quantities,
    Quantity,
    ShortText,
    Uri,
)
from quantization_api.environment import Proxy, TrustedCertificates, Variable, VariableSource
from quantization_api.rules import KubernetesModel, Rule, exactly_one
from quantization_api.volumes import MountedVolume, SecretReference

SAME_MOUNT = "two volumes have the same mountPath"
ROOT_SENTENCE = "runAsUser must not be 0: pods of jobs do not run as root"
CHOSEN_SENTENCE = (
    "platformChoosesUser leaves user and groups to the platform: leave out runAsUser, runAsGroup and fsGroup"
)
OWN_LABELS = ("quantization.dev/", "batch.kubernetes.io/", "app.kubernetes.io/")
OWN_LABELS_SENTENCE = (
    "labels must not begin with quantization.dev/, batch.kubernetes.io/ or app.kubernetes.io/: the operator and "
    "Kubernetes set those"
)
OWN_ANNOTATIONS_SENTENCE = (
    "annotations must not begin with quantization.dev/ or batch.kubernetes.io/: the operator and Kubernetes set "
    "those"
)
RESTRICTED = "pods of jobs are restricted; leave it out"
OF_THE_OPERATOR = "the operator decides it; leave it out"
ONE_CONTAINER = "the pod has one container; write image, env, resources and volumes directly into template"


def _without(beginnings: tuple[str, ...], sentence: str) -> tuple[AfterValidator, dict[str, Any]]:
    """For a map: no key begins so. The check in Python, and the schema of the map."""

    def check(value: dict[str, str]) -> dict[str, str]:
        if any(key.startswith(beginnings) for key in value):
            raise PydanticCustomError("rule", "{sentence}", {"sentence": sentence})
        return value

    held = " && ".join(f"!key.startsWith('{beginning}')" for beginning in beginnings)
    rule = {"rule": f"self.all(key, {held})", "message": sentence}
    rules = [*SHORT_KEYS["x-kubernetes-validations"], rule]
    return AfterValidator(check), {"x-kubernetes-validations": rules}


_NO_OWN_LABELS, _LABELS_SCHEMA = _without(OWN_LABELS, OWN_LABELS_SENTENCE)
_NO_OWN_ANNOTATIONS, _ANNOTATIONS_SCHEMA = _without(OWN_LABELS[:2], OWN_ANNOTATIONS_SENTENCE)
PodLabels = Annotated[
    dict[LabelKey, Annotated[str, Field(max_length=63)]],
    Field(max_length=32, json_schema_extra=_LABELS_SCHEMA),
    _NO_OWN_LABELS,
]
PodAnnotations = Annotated[
    dict[LabelKey, Annotated[str, Field(max_length=4096)]],
    Field(max_length=32, json_schema_extra=_ANNOTATIONS_SCHEMA),
    _NO_OWN_ANNOTATIONS,
]
GroupId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ResourceClaimName(KubernetesModel):
    """A claim of the pod that the container uses."""

    name: DnsName = Field(description="Name in template.resourceClaims.")
    request: DnsName | None = Field(None, description="One request of the claim. If unset: all of it.")


class ResourceRequirements(KubernetesModel):
    """Resources of the quantizer's container."""

    requests: Quantities = Field(default_factory=dict, description="What a node must have free for the pod.")
    limits: Quantities = Field(
        default_factory=dict, description="What the container may use at most; GPUs here."
    )
    claims: Annotated[list[ResourceClaimName], Field(max_length=8)] = Field(
        default_factory=list, description="Devices of template.resourceClaims (dynamic resource allocation)."
    )


class PodResourceClaim(KubernetesModel):
    """A ResourceClaim of the pod, by which a driver gives it devices."""

    name: DnsName = Field(description="Name that resources.claims uses.")
    resource_claim_name: DnsName | None = Field(None, description="A ResourceClaim of the same namespace.")
    resource_claim_template_name: DnsName | None = Field(
        None, description="A ResourceClaimTemplate of the same namespace; each pod gets a claim of its own."
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one(
            "a resource claim needs exactly one of", "resourceClaimName", "resourceClaimTemplateName"
        ),
    )


class Toleration(KubernetesModel):
    """A toleration of the pod (core/v1)."""

    key: ShortText | None = Field(None, description="Key of the taint; if unset, every key.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="If unset: Equal.")
    value: ShortText | None = Field(None, description="Value of the taint, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; if unset, every effect."
    )
    toleration_seconds: int | None = Field(
        None, description="How long the pod stays on a node that gets the taint NoExecute; if unset, forever."
    )


class TopologySpread(KubernetesModel):
    """How pods are spread over places (core/v1)."""

    max_skew: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="By how many pods two places may differ."
    )
    topology_key: TopologyKey
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="What to do where they would differ by more."
    )
    label_selector: LabelSelector | None = None
    match_label_keys: Keys = Field(default_factory=list)
    min_domains: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Places that there must be at least."
    )
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        None, description="Whether nodes that the pod may not run on count. If unset: they do not (Honor)."
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        None, description="Whether nodes with taints count. If unset: they do (Ignore)."
    )


class HostAlias(KubernetesModel):
    """Names of an address, in /etc/hosts of the pod."""

    ip: Annotated[str, Field(min_length=2, max_length=45, pattern=r"^[0-9A-Fa-f.:]+$")] = Field(
        description="The address."
    )
    hostnames: Annotated[list[DnsName], Field(max_length=16)] = Field(description="Its names.")


class SELinux(KubernetesModel):
    """SELinux label of the pod, as far as `restricted` lets it be chosen."""

    REFUSED: ClassVar[dict[str, str]] = dict.fromkeys(("user", "role", "type"), RESTRICTED)
    level: ShortText = Field(description="For example s0:c123,c456.")


class SecurityContext(KubernetesModel):
    """User and groups of the pod. All else is as `restricted` wants it, and cannot be chosen."""

    REFUSED: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            *("privileged", "allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "procMount"),
            *("readOnlyRootFilesystem", "seccompProfile", "appArmorProfile", "sysctls", "windowsOptions"),
        ),
        RESTRICTED,
    )
    run_as_user: GroupId | None = Field(None, description="User of the container. If unset: 65532.")
    run_as_group: GroupId | None = Field(None, description="Its group. If unset: 65532.")
    fs_group: GroupId | None = Field(None, description="Group that owns volumes. If unset: 65532.")
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = Field(
        None, description="When the files of a volume get that group. If unset: OnRootMismatch."
    )
    supplemental_groups: Annotated[list[GroupId], Field(max_length=16)] = Field(
        default_factory=list, description="More groups of the container."
    )
    se_linux_options: SELinux | None = None
    platform_chooses_user: bool = Field(
        False,
        description="Name neither user nor groups, so that the platform chooses them, as OpenShift does from the range "
        "of the namespace.",
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.runAsUser) || self.runAsUser != 0",
            message=ROOT_SENTENCE,
            check=lambda s: ROOT_SENTENCE if s.run_as_user == 0 else None,
            field="runAsUser",
        ),
        Rule(
            cel="!has(self.platformChoosesUser) || !self.platformChoosesUser || "
            "!(has(self.runAsUser) || has(self.runAsGroup) || has(self.fsGroup))",
            message=CHOSEN_SENTENCE,
            check=lambda s: CHOSEN_SENTENCE if s.platform_chooses_user and _names_ids(s) else None,
            field="platformChoosesUser",
        ),
    )


def _names_ids(chosen: SecurityContext) -> bool:
    return any(given is not None for given in (chosen.run_as_user, chosen.run_as_group, chosen.fs_group))


class PodTemplate(KubernetesModel):
    """What users may choose about the pod; the operator fixes the rest (restricted, no token)."""

    REFUSED: ClassVar[dict[str, str]] = {
        "metadata": "write labels and annotations directly into template",
        "spec": "write the fields of the pod directly into template",
        "containers": ONE_CONTAINER,
        "initContainers": "the pod has one container; prepare what it reads on a volume before",
        "command": "what is run is the quantizer of the image; name another image",
        "args": "what is run is the quantizer of the image; write what it does into workflow",
        "volumeMounts": "write mountPath into the volume",
        "restartPolicy": "the Job makes a new pod for each attempt; write backoffLimit into spec",
        "activeDeadlineSeconds": "write it into spec, beside template",
        "ports": OF_THE_OPERATOR,
        "nodeName": "write nodeSelector or affinity",
        **dict.fromkeys(("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"), OF_THE_OPERATOR),
        "automountServiceAccountToken": "pods of jobs carry no token of Kubernetes; leave it out",
        "privileged": RESTRICTED,
        **dict.fromkeys(("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"), RESTRICTED),
    }
    labels: PodLabels = Field(default_factory=dict, description="Labels of the pod.")
    annotations: PodAnnotations = Field(default_factory=dict, description="Annotations of the pod.")
    image: Uri | None = Field(None, description="Image of the quantizer. If unset: the operator's default.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When the node pulls the image. If unset: Kubernetes' default for the tag."
    )
    image_pull_secrets: Annotated[list[SecretReference], Field(max_length=8)] = Field(
        default_factory=list, description="Secrets with the accounts of registries."
    )
    env: Annotated[list[Variable], Field(max_length=64)] = Field(
        default_factory=list,
        description="Environment variables of the quantizer.",
        json_schema_extra={"x-map-key": "name"},
    )
    env_from: Annotated[list[VariableSource], Field(max_length=8)] = Field(
        default_factory=list, description="ConfigMaps and Secrets whose keys become variables, with a prefix."
    )
    proxy: Proxy | None = None
    trusted_certificates: TrustedCertificates | None = None
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    resource_claims: Annotated[list[PodResourceClaim], Field(max_length=8)] = Field(
        default_factory=list,
        description="Devices by dynamic resource allocation; resources.claims says that the container uses them.",
        json_schema_extra={"x-map-key": "name"},
    )
    scratch_size: Quantity | None = Field(
        None, description="Size limit of /scratch. If unset: the operator's default."
    )
    security_context: SecurityContext | None = None
    node_selector: Labels = Field(default_factory=dict, description="Labels that the node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(
        default_factory=list, description="Taints that the node may have."
    )
    affinity: Affinity | None = Field(None, description="Affinity of the pod (core/v1).")
    topology_spread_constraints: Annotated[list[TopologySpread], Field(max_length=8)] = Field(
        default_factory=list, description="How pods are spread over places."
    )
    priority_class_name: ShortText | None = Field(None, description="PriorityClass of the pod.")
    scheduler_name: ShortText | None = Field(
        None, description="Scheduler that places the pod. If unset: Kubernetes' own."
    )
    runtime_class_name: ShortText | None = Field(None, description="RuntimeClass of the pod.")
    service_account_name: ShortText | None = Field(
        None, description="Service account, for workload identity; its Kubernetes token is never mounted."
    )
    host_aliases: Annotated[list[HostAlias], Field(max_length=16)] = Field(
        default_factory=list, description="Names that the pod resolves without a name service."
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        None,
        description="Seconds that a pod that is told to end has to finish and save its layer. If unset: 60.",
    )
    volumes: Annotated[list[MountedVolume], Field(max_length=16)] = Field(
        default_factory=list,
        description="Volumes that the quantizer sees as folders.",
        json_schema_extra={"x-map-key": "name"},
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.volumes) || "
            "self.volumes.all(v, self.volumes.exists_one(other, other.mountPath == v.mountPath))",
            message=SAME_MOUNT,
            check=lambda t: SAME_MOUNT if len({v.mount_path for v in t.volumes}) < len(t.volumes) else None,
            field="volumes",
        ),
    )
