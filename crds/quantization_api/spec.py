"""The spec of a QuantizationJob: the workflow, and beside it where and how it runs.

Nothing beside `workflow` can change the result; the words are Kubernetes'.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quantization_api import places
from quantization_api.bounded import DnsName, SecretKey, ShortText, Uri
from quantization_api.constants import MOST_PATIENCE_SECONDS, PATIENCE_SECONDS
from quantization_api.rules import KubernetesModel, Rule
from quantization_api.template import PodTemplate
from quantization_api.volumes import MountedVolume
from quantization_api.workflow import Workflow

OUTPUT_SENTENCE = (
    "output.uri must be s3://BUCKET/PREFIX with a bucket and a prefix, or file:///PATH, without //, . or .."
)
TRIALS_SENTENCE = (
    "output.trialsUri must be s3://BUCKET/PREFIX with bucket and prefix, or file:///PATH, without //, . or .."
)
TRIALS_NAME = ".trials"
"""Below the output: where the points of a search are kept, if nothing else is said."""
ENDPOINT_SENTENCE = "storage.endpoint must be http(s)://HOST[:PORT], without a user, a path or anything else"

PatienceSeconds = Annotated[int, Field(ge=0, le=MOST_PATIENCE_SECONDS)]


class Output(KubernetesModel):
    """Where the artifact goes."""

    uri: Uri = Field(description="s3://BUCKET/PREFIX, or file:///PATH on a mounted volume.")
    trials_uri: Uri | None = Field(
        None,
        description="Where the points of searches are kept: jobs that name the same place share them, and compute none "
        "twice. If unset: .trials below uri.",
    )

    @property
    def trials_place(self) -> str:
        """Where the points of a search are kept."""
        return self.trials_uri or f"{self.uri.rstrip('/')}/{TRIALS_NAME}"

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.trialsUri) || ({places.cel('self.trialsUri', places.OUTPUT)} && "
            f"!{places.cel('self.trialsUri', places.DOTS)})",
            message=TRIALS_SENTENCE,
            check=lambda o: (
                None if o.trials_uri is None or places.is_output(o.trials_uri) else TRIALS_SENTENCE
            ),
            field="trialsUri",
        ),
        Rule(
            cel=f"{places.cel('self.uri', places.OUTPUT)} && !{places.cel('self.uri', places.DOTS)}",
            message=OUTPUT_SENTENCE,
            check=lambda o: None if places.is_output(o.uri) else OUTPUT_SENTENCE,
            field="uri",
        ),
    )


class CredentialKeys(KubernetesModel):
    """Names of the keys in the Secret."""

    access_key_id: SecretKey = Field(
        "AWS_ACCESS_KEY_ID", description="Name of the key that holds the access key ID."
    )
    secret_access_key: SecretKey = Field(
        "AWS_SECRET_ACCESS_KEY", description="Name of the key that holds the secret access key."
    )
    session_token: SecretKey = Field(
        "AWS_SESSION_TOKEN",
        description="Name of the key that holds the session token; optional in the Secret.",
    )


class CredentialsSecret(KubernetesModel):
    """A Secret of the same namespace, and which of its keys are read. No other key reaches the pod."""

    name: DnsName = Field(description="Name of the Secret.")
    keys: CredentialKeys = Field(
        default_factory=CredentialKeys, description="Names of the keys, if they differ from the AWS SDK's."
    )


class Storage(KubernetesModel):
    """How s3:// URIs are reached. Without it: AWS, with the workload identity of the service account."""

    endpoint: Uri | None = Field(None, description="URL of the S3 server. If unset: AWS.")
    region: ShortText | None = Field(None, description="Region of the buckets.")
    credentials_secret: CredentialsSecret | None = Field(
        None,
        description="Secret whose keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if present, AWS_SESSION_TOKEN "
        "become environment variables of the pod. If unset: the workload identity of the service account.",
    )
    patience_seconds: PatienceSeconds = Field(
        PATIENCE_SECONDS,
        description="Seconds that a run waits, in total, for storage that is unreachable or busy before the attempt "
        "fails.",
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.endpoint) || {places.cel('self.endpoint', places.ENDPOINT)}",
            message=ENDPOINT_SENTENCE,
            check=lambda s: (
                None
                if s.endpoint is None or places.matches(s.endpoint, places.ENDPOINT)
                else ENDPOINT_SENTENCE
            ),
            field="endpoint",
        ),
    )


VANISHES = "a file:// output must be on a writable claim of template.volumes, or it is lost with the pod"
TRIALS_VANISH = (
    "a file:// trialsUri must be on a writable claim of template.volumes, or it is lost with the pod"
)


def _outlives_the_pod(uri: str) -> str:
    """CEL: the innermost volume that a place lies in is a claim that can be written to."""
    return (
        "has(self.template.volumes) && self.template.volumes.exists(v, "
        "has(v.persistentVolumeClaim) && !(has(v.readOnly) && v.readOnly) && "
        f"({uri} + '/').startsWith('file://' + v.mountPath + '/') && "
        "self.template.volumes.all(other, other.mountPath.size() <= v.mountPath.size() || "
        f"!({uri} + '/').startsWith('file://' + other.mountPath + '/')))"
    )


NO_WORKERS = (
    "parallelism is the number of workers of a search; write workflow.search_strategy, or leave it out"
)


class QuantizationJobSpec(KubernetesModel):
    """What is computed (workflow) and where and how (everything else)."""

    workflow: Workflow = Field(
        description="What is computed, in Olive's words. Immutable.",
        json_schema_extra={
            "x-immutable": "workflow is immutable: it identifies the result; delete the object and apply the new one"
        },
    )
    output: Output = Field(
        description="Where the artifact goes. Immutable.",
        json_schema_extra={"x-immutable": "output is immutable: delete the object and apply the new one"},
    )
    storage: Storage = Field(default_factory=Storage, description="How s3:// URIs are reached.")
    template: PodTemplate = Field(default_factory=PodTemplate, description="The pod that quantizes.")
    resource_class: DnsName | None = Field(
        None,
        description="Resources by the size of the model: a class that the administrator has defined, for example "
        "small, 8b or 70b. What template says itself wins.",
    )
    parallelism: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Workers of a search: pods that share the points among them, at most one for each point. It says "
        "where the points are computed, not what they are. A change takes effect with the next Job.",
    )
    suspend: bool = Field(
        False,
        description="Pause the job: its Job is deleted and no pod runs; finished layers and the count of failed "
        "attempts are kept. Set it to false to resume.",
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        3,
        description="Retries before the job fails, counted across pauses, and over all workers of a search; "
        "disruptions do not count.",
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31536000)] | None = Field(
        None,
        description="Seconds that the Job may be active; the clock restarts after a pause or a preemption.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31536000)] | None = Field(
        None,
        description="Seconds from the end of the job until the object is deleted. If unset, it is kept. The artifact "
        "is kept unless artifactPolicy is Delete.",
    )
    artifact_policy: Literal["Retain", "Delete"] = Field(
        "Retain",
        description="Delete: before the object is deleted, its job is stopped and a pod removes the artifact; if "
        "that fails, the object is deleted anyway and an event says what was left behind.",
    )
    reuse: Literal["Allowed", "Never", "Trusted"] = Field(
        "Allowed",
        description="Allowed: a pod looks at the output first; an artifact of the same recipe that is already there is "
        "the result. Trusted: like Allowed, but if the last job of this namespace that succeeded at the output has "
        "the same workflow, image, endpoint and volumes, its result is taken over: no pod is started, nothing is read.",
    )
    managed_by: (
        Annotated[
            str,
            Field(min_length=3, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9._-]+$"),
        ]
        | None
    ) = Field(
        None,
        description="Controller that manages this object, as for a Job (for example kueue.x-k8s.io/multikueue); this "
        "operator leaves the objects of others alone. "
        "If unset, or quantization.dev/operator, that is this operator. Immutable.",
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.output.uri.startsWith('file://') || "
            f"(has(self.template) && {_outlives_the_pod('self.output.uri')})",
            message=VANISHES,
            check=None,  # without a cluster a file is as good as any place; for an operator: `outlives_the_pod`
            field="output",
        ),
        Rule(
            cel="!has(self.output.trialsUri) || !self.output.trialsUri.startsWith('file://') || "
            f"(has(self.template) && {_outlives_the_pod('self.output.trialsUri')})",
            message=TRIALS_VANISH,
            check=None,  # as above
            field="output",
        ),
        Rule(
            cel="!has(self.parallelism) || self.parallelism == 1 || has(self.workflow.search_strategy)",
            message=NO_WORKERS,
            check=lambda s: NO_WORKERS if s.parallelism > 1 and s.workflow.search_strategy is None else None,
            field="parallelism",
        ),
        Rule(
            cel="has(self.managedBy) == has(oldSelf.managedBy) && "
            "(!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
            message="managedBy is immutable: delete the object and apply the new one",
            check=None,  # a transition
            field="managedBy",
        ),
    )


def outlives_the_pod(spec: QuantizationJobSpec) -> bool:
    """Whether what a job writes is there when its pods are gone: in S3, or with a claim as the innermost volume."""
    places_written = (spec.output.uri, spec.output.trials_place)
    return all(_is_kept(uri, spec.template.volumes) for uri in places_written)


def _is_kept(uri: str, volumes: list[MountedVolume]) -> bool:
    if not uri.startswith("file://"):
        return True
    path = uri.removeprefix("file://")
    over = [volume for volume in volumes if places.within(path, volume.mount_path)]
    innermost = max(over, key=lambda volume: len(volume.mount_path), default=None)
    return innermost is not None and innermost.persistent_volume_claim is not None and not innermost.read_only
