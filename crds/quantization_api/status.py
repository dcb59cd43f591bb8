"""The status of a QuantizationJob: the kstatus contract, and what a person wants to see.

Conditions decide, `phase` is derived from them for eyes. Every list and string is bounded.
"""

from typing import Annotated, Literal

from pydantic import Field

from quantization_api.bounded import Count, Digest, Finite, Name, Positive, ShortText, Text, Uri
from quantization_api.failures import Category
from quantization_api.rules import KubernetesModel

Phase = Literal["Pending", "Queued", "Running", "Suspended", "Succeeded", "Failed"]
ConditionType = Literal["Ready", "Reconciling", "Stalled", "Suspended"]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=32)]


class Condition(KubernetesModel):
    """A metav1 condition."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    observed_generation: Count | None = None
    last_transition_time: Timestamp
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$")]
    message: Annotated[str, Field(max_length=1024)] = ""


class Progress(KubernetesModel):
    """How far the run is."""

    percent: Annotated[int, Field(ge=0, le=100)] = Field(0, description="Share of the work that is done.")
    stage: ShortText = Field(
        "", description="What is done now: read, calibrate, quantize, evaluate, upload ..."
    )
    layer: Count = Field(0, description="Decoder layers that are finished.")
    layers: Count = Field(0, description="Decoder layers of the model.")
    eta_seconds: Count | None = Field(None, description="Estimated time to the end.")


class Attempts(KubernetesModel):
    """Pods that ended without success."""

    failed: Count = Field(0, description="Counted against backoffLimit.")
    disrupted: Count = Field(0, description="Evicted, preempted, drained: not counted.")


class Artifact(KubernetesModel):
    """The verified result."""

    uri: Uri
    manifest_digest: Digest = Field(description="sha256 of manifest.json.")
    size_bytes: Count = Field(description="Size of the model's safetensors.")
    compression_ratio: Positive = Field(description="Input size over output size.")
    bits_per_weight: Positive = Field(
        description="Bits of a quantized weight, scales and zero points included."
    )
    readers: Annotated[list[ShortText], Field(max_length=16)] = Field(
        default_factory=list, description="Software that reads the artifact as it is."
    )
    reused_from: Uri | None = Field(None, description="Where the result was already, found or trusted.")


class MetricResult(KubernetesModel):
    """A metric of the input model and of the result."""

    name: Name
    input: Finite | None = None
    output: Finite | None = None


class Trial(KubernetesModel):
    """One point of a search, best first."""

    parameters: Text
    metrics: Annotated[list[MetricResult], Field(max_length=8)] = Field(default_factory=list)


class Failure(KubernetesModel):
    """Why a job failed and what to do."""

    category: Category
    message: Text
    hint: Text = ""
    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    pod_name: ShortText | None = None


class QuantizationJobStatus(KubernetesModel):
    """What the operator says about a job."""

    observed_generation: Count | None = None
    phase: Phase | None = Field(None, description="For eyes; derived from the conditions.")
    conditions: Annotated[list[Condition], Field(max_length=8)] = Field(
        default_factory=list, json_schema_extra={"x-map-key": "type"}
    )
    progress: Progress | None = None
    attempts: Attempts | None = None
    start_time: Timestamp | None = Field(None, description="When the Job was created.")
    completion_time: Timestamp | None = Field(None, description="When the job succeeded or failed.")
    recipe: Digest | None = Field(None, description="Identity of the result.")
    passes: ShortText | None = Field(None, description="The pass types, for eyes.")
    job_name: ShortText | None = Field(None, description="The child Job.")
    job_uid: ShortText | None = Field(None, description="The uid of the Job whose pods are believed.")
    artifact: Artifact | None = None
    metrics: Annotated[list[MetricResult], Field(max_length=16)] = Field(default_factory=list)
    trials: Annotated[list[Trial], Field(max_length=16)] = Field(default_factory=list)
    failure: Failure | None = None
