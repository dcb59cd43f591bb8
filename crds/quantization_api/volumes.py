"""Volumes that the quantizer sees as folders: of claims, ConfigMaps, Secrets, scratch space, drivers and images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quantization_api import places
from quantization_api.bounded import DnsName, LabelKey, Quantity, SecretKey, ShortText, Uri
from quantization_api.environment import ContainerResource, Optional, PodField
from quantization_api.rules import KubernetesModel, Rule, exactly_one

MOUNT_SENTENCE = (
    "mountPath must be an absolute path other than /, without //, . or .., and without a trailing slash"
)
OWN_SENTENCE = (
    "mountPath must not be inside or above a folder of the image or the system, such as /scratch, /opt/app, /usr or "
    "/etc; choose a folder of its own, such as /models"
)
SCRATCH_VOLUME = "quantizer-scratch"
CERTIFICATES_VOLUME = "quantizer-certificates"
TAKEN_NAME = (
    f"the name {SCRATCH_VOLUME} belongs to the scratch volume and {CERTIFICATES_VOLUME} to trustedCertificates; "
    "choose another"
)
INSIDE_SENTENCE = "a path inside a volume must be relative, without //, . or .."
INSIDE, DOTS_INSIDE = "^[^/:]+(/[^/:]+)*$", "(^|/)[.]{1,2}(/|$)"
Mode = Annotated[int, Field(ge=0, le=0o777)]
DefaultMode = Annotated[
    Mode | None, Field(description="Permissions of the files, as a decimal number. If unset: 420 (0644).")
]


def _is_inside(path: str) -> bool:
    return places.matches(path, INSIDE) and not places.matches(path, DOTS_INSIDE)


def _inside() -> Rule:
    return Rule(
        cel=f"{places.cel('self.path', INSIDE)} && !{places.cel('self.path', DOTS_INSIDE)}",
        message=INSIDE_SENTENCE,
        check=lambda item: None if _is_inside(item.path) else INSIDE_SENTENCE,
        field="path",
    )


class KeyToPath(KubernetesModel):
    """A key, and the file that it becomes."""

    key: SecretKey = Field(description="The key.")
    path: ShortText = Field(description="The file, below mountPath.")
    mode: Mode | None = Field(None, description="Its permissions, as a decimal number.")
    RULES: ClassVar[tuple[Rule, ...]] = (_inside(),)


Items = Annotated[
    list[KeyToPath], Field(max_length=32, description="Keys that become files. If empty: all of them.")
]


class ClaimSource(KubernetesModel):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: DnsName = Field(description="Name of the claim.")


class ConfigMapSource(KubernetesModel):
    """A ConfigMap of the same namespace; its keys become files."""

    name: DnsName = Field(description="Name of the ConfigMap.")
    items: Items = Field(default_factory=list)
    default_mode: DefaultMode = None
    optional: Optional = None


class SecretSource(KubernetesModel):
    """A Secret of the same namespace; its keys become files."""

    secret_name: DnsName = Field(description="Name of the Secret.")
    items: Items = Field(default_factory=list)
    default_mode: DefaultMode = None
    optional: Optional = None


class EmptyDirSource(KubernetesModel):
    """Scratch space that is gone with the pod."""

    medium: Literal["Memory", "HugePages"] | None = Field(
        None, description="Memory counts against the container's limit. If unset: the node's disk."
    )
    size_limit: Quantity | None = Field(None, description="How much it may hold.")


class ProjectedKeys(KubernetesModel):
    """Keys of a ConfigMap or of a Secret."""

    name: DnsName = Field(description="Name of the ConfigMap or Secret.")
    items: Items = Field(default_factory=list)
    optional: Optional = None


class PodFile(KubernetesModel):
    """A file that says something about the pod."""

    path: ShortText = Field(description="The file, below mountPath.")
    field_ref: PodField | None = None
    resource_field_ref: ContainerResource | None = None
    RULES: ClassVar[tuple[Rule, ...]] = (
        _inside(),
        exactly_one("a file of downwardAPI needs exactly one of", "fieldRef", "resourceFieldRef"),
    )


class PodFiles(KubernetesModel):
    """Files that say something about the pod."""

    items: Annotated[list[PodFile], Field(max_length=16)] = Field(description="The files.")


class ProjectedPart(KubernetesModel):
    """One part of a projected volume."""

    REFUSED: ClassVar[dict[str, str]] = {
        "serviceAccountToken": "pods of jobs carry no token of Kubernetes; write serviceAccountName for workload "
        "identity",
        "clusterTrustBundle": "write trustedCertificates with a ConfigMap of the certificates",
    }
    config_map: ProjectedKeys | None = None
    secret: ProjectedKeys | None = None
    downward_api: PodFiles | None = Field(None, alias="downwardAPI")
    RULES: ClassVar[tuple[Rule, ...]] = (
        exactly_one(
            "a source of a projected volume needs exactly one of", "configMap", "secret", "downwardAPI"
        ),
    )


class ProjectedSource(KubernetesModel):
    """Several ConfigMaps and Secrets in one folder."""

    sources: Annotated[list[ProjectedPart], Field(max_length=8)] = Field(description="Its parts.")
    default_mode: DefaultMode = None


class SecretReference(KubernetesModel):
    """A Secret of the same namespace."""

    name: DnsName = Field(description="Name of the Secret.")


class CsiSource(KubernetesModel):
    """A volume that a CSI driver makes for this pod."""

    driver: DnsName = Field(description="Name of the driver.")
    fs_type: ShortText | None = Field(None, description="File system. If unset: the driver decides.")
    read_only: bool = Field(False, description="Whether the driver makes it read-only.")
    volume_attributes: Annotated[dict[LabelKey, ShortText], Field(max_length=32)] = Field(
        default_factory=dict, description="What the driver wants to know."
    )
    node_publish_secret_ref: SecretReference | None = None


class ImageSource(KubernetesModel):
    """The files of an OCI image or artifact, read-only."""

    reference: Uri = Field(description="The image, for example registry.example/models/llama:1.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When the node pulls it. If unset: Kubernetes' default for the tag."
    )


class MountedVolume(KubernetesModel):
    """A volume and where the quantizer sees it."""

    REFUSED: ClassVar[dict[str, str]] = {
        "hostPath": "pods of jobs do not see files of the node; make a PersistentVolume of the path, and a claim",
        "nfs": "make a PersistentVolume of the server, and a claim",
        "ephemeral": "make a claim, or write emptyDir",
        "downwardAPI": "write projected with a source downwardAPI",
    }
    name: DnsName = Field(description="Name of the volume in the pod.")
    mount_path: Uri = Field(description="Absolute path in the pod, for example /models.")
    read_only: bool = Field(False, description="Mount it read-only.")
    persistent_volume_claim: ClaimSource | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    empty_dir: EmptyDirSource | None = None
    projected: ProjectedSource | None = None
    csi: CsiSource | None = None
    image: ImageSource | None = None
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"{places.cel('self.mountPath', places.MOUNT)} && !{places.cel('self.mountPath', places.DOTS)}",
            message=MOUNT_SENTENCE,
            check=lambda v: None if places.is_mount(v.mount_path) else MOUNT_SENTENCE,
            field="mountPath",
        ),
        Rule(
            cel=f"!{places.cel('self.mountPath', places.OWN)}",
            message=OWN_SENTENCE,
            check=lambda v: OWN_SENTENCE if places.matches(v.mount_path, places.OWN) else None,
            field="mountPath",
        ),
        Rule(
            cel=f"!(self.name in ['{SCRATCH_VOLUME}', '{CERTIFICATES_VOLUME}'])",
            message=TAKEN_NAME,
            check=lambda v: TAKEN_NAME if v.name in (SCRATCH_VOLUME, CERTIFICATES_VOLUME) else None,
            field="name",
        ),
        exactly_one(
            "a volume needs exactly one of",
            "persistentVolumeClaim",
            "configMap",
            "secret",
            "emptyDir",
            "projected",
            "csi",
            "image",
        ),
    )
