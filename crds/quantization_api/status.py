"""The status of a QuantizationJob: the kstatus contract, and what a person wants to see.

Conditions decide; `phase` is derived from them for people. Every list and string is bounded.
"""

from typing import Annotated, Literal

from pydantic import Field

from quantization_api.bounded import Count, Digest, Finite, Name, NonNegative, ShortText, Text, Uri
from quantization_api.failures import Category
from quantization_api.rules import KubernetesModel

Phase = Literal["Pending", "Queued", "Running", "Suspended", "Succeeded", "Failed"]
ConditionType = Literal["Ready", "Reconciling", "Stalled", "Suspended"]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=32)]


class Condition(KubernetesModel):
    """A metav1 condition."""

    type: ConditionType = Field(description="What the condition says something about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Count | None = Field(
        None, description="Generation of the spec that it was judged by."
    )
    last_transition_time: Timestamp = Field(description="When its status changed last.")
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$")] = Field(
        description="Why, in one word for programs."
    )
    message: Annotated[str, Field(max_length=1024)] = Field("", description="Why, in sentences for people.")


class Trials(KubernetesModel):
    """How far a search has come."""

    done: Count = Field(0, description="Points that have ended.")
    total: Count = Field(0, description="Points that are tried at most.")
    best: ShortText | None = Field(None, description="The best point so far and its first metric.")
    shown: ShortText | None = Field(None, description="Both numbers, for kubectl get.")


class Progress(KubernetesModel):
    """How far the run has come."""

    percent: Annotated[int, Field(ge=0, le=100)] = Field(0, description="Share of the work that is done.")
    stage: ShortText = Field("", description="Current stage: read, calibrate, quantize, evaluate, upload ...")
    layer: Count = Field(0, description="Decoder layers that are finished.")
    layers: Count = Field(0, description="Decoder layers of the model.")
    eta_seconds: Count | None = Field(None, description="Estimated seconds to the end.")
    shown: ShortText | None = Field(None, description="The share in percent, for kubectl get.")
    notice: Text | None = Field(
        None,
        description="What to know before the run ends: which of the usual servers will refuse the result.",
    )


class Attempts(KubernetesModel):
    """Pods that ended without success."""

    failed: Count = Field(0, description="Counted against backoffLimit.")
    disrupted: Count = Field(0, description="Evicted, preempted, drained: not counted.")


class Artifact(KubernetesModel):
    """The verified result."""

    uri: Uri = Field(description="Where the artifact is.")
    manifest_digest: Digest = Field(description="sha256 of manifest.json.")
    size_bytes: Count = Field(description="Bytes of the model's safetensors.")
    compression_ratio: NonNegative = Field(description="Input size over output size.")
    bits_per_weight: NonNegative = Field(
        description="Bits per weight of the linears, including scales and zero points; where no weight is quantized, "
        "those of its data type."
    )
    readers: Annotated[list[ShortText], Field(max_length=16)] = Field(
        default_factory=list, description="Software that loads the artifact as is."
    )
    reused_from: Uri | None = Field(
        None, description="Where the result already was, if it was found there or taken over."
    )


class MetricResult(KubernetesModel):
    """A metric of the input model and of the result."""

    name: Name = Field(description="Name of the metric in the workflow.")
    input: Finite | None = Field(None, description="Value of the input model.")
    output: Finite | None = Field(None, description="Value of the result.")
    low: Finite | None = Field(
        None, description="Lower end of the 95 % confidence interval of the result's value."
    )
    high: Finite | None = Field(None, description="Its upper end.")
    measured_with: ShortText | None = Field(
        None, description="Of speed and memory: the software that served the model, and the device."
    )


TrialState = Literal["Finished", "Stopped", "Failed", "Refused"]
"""Stopped: given up early, since others are better. Refused: its parameters do not go together."""


class Trial(KubernetesModel):
    """One point of a search."""

    parameters: Text = Field(description="What was chosen, as PASS.PARAMETER=VALUE, separated by commas.")
    state: TrialState = "Finished"
    metrics: Annotated[list[MetricResult], Field(max_length=8)] = Field(
        default_factory=list, description="Its metrics."
    )
    size_bytes: Count | None = Field(None, description="Bytes of the model's safetensors.")
    on_front: bool = Field(
        False, description="No other point is better in one figure and as good in all others."
    )
    best: bool = Field(False, description="The point that was chosen.")


class Failure(KubernetesModel):
    """Why a job failed and what to do."""

    category: Category
    message: Text = Field(description="What went wrong.")
    hint: Text = Field("", description="What to do about it.")
    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = Field(
        None, description="Exit code of the quantizer."
    )
    pod_name: ShortText | None = Field(None, description="Pod that failed.")


class QuantizationJobStatus(KubernetesModel):
    """What the operator says about a job."""

    observed_generation: Count | None = Field(
        None, description="Generation of the spec that this status describes."
    )
    phase: Phase | None = Field(None, description="Summary for people, derived from the conditions.")
    conditions: Annotated[list[Condition], Field(max_length=8)] = Field(
        default_factory=list,
        description="State as kstatus reads it.",
        json_schema_extra={"x-map-key": "type"},
    )
    progress: Progress | None = None
    attempts: Attempts | None = None
    start_time: Timestamp | None = Field(None, description="When the Job was created.")
    completion_time: Timestamp | None = Field(None, description="When the job succeeded or failed.")
    restarts: Count | None = Field(
        None,
        description="How often the job was started again after it had failed; attempts count from there.",
    )
    recipe: Digest | None = Field(None, description="Digest that identifies the result.")
    passes: ShortText | None = Field(None, description="Types of the passes, joined by +.")
    job_name: ShortText | None = Field(None, description="Name of the child Job.")
    job_uid: ShortText | None = Field(None, description="uid of the child Job; only its pods count.")
    made_from: ShortText | None = Field(
        None,
        description="Digests of the parts of the spec that the last Job was made from. A part that has another one now "
        "waits for the next Job.",
    )
    defaults: Text | None = Field(
        None,
        description="Fields that the defaults of the cluster, or the resourceClass, gave the last Job, separated by "
        "commas.",
    )
    artifact: Artifact | None = None
    metrics: Annotated[list[MetricResult], Field(max_length=16)] = Field(
        default_factory=list, description="Metrics of the chosen evaluator."
    )
    trials: Annotated[list[Trial], Field(max_length=16)] = Field(
        default_factory=list,
        description="Points of a search, best first: those that there is room for.",
    )
    search: Trials | None = Field(None, description="How far a search has come.")
    failure: Failure | None = None
