"""The contract between operator and pod: request, progress, result.

The operator writes the request into one environment variable; the pod serves progress over HTTP and
leaves its result as the termination message of its container.
"""

import json
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from quantization_api.constants import CONTAINER_NAME as CONTAINER_NAME
from quantization_api.constants import METRICS_PATH as METRICS_PATH
from quantization_api.constants import PATIENCE_SECONDS
from quantization_api.constants import PROGRESS_PORT as PROGRESS_PORT
from quantization_api.failures import Category
from quantization_api.rules import KubernetesModel
from quantization_api.spec import Output, PatienceSeconds, QuantizationJobSpec
from quantization_api.status import Artifact, Failure, MetricResult, Progress, Trial, Trials
from quantization_api.workflow import Workflow

PROGRESS_PATH = "/progress"
HEALTH_PATH = "/healthz"
SCRATCH_PATH = "/scratch"
TERMINATION_MESSAGE_PATH = "/dev/termination-log"
WORKER_ENV = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in the pods of an Indexed Job: which worker of a search a pod is. Its successor goes on with its
point at once; without it, all pods of a job count as one worker."""
MAX_RESULT_BYTES = 4096
"""Kubernetes keeps that much of a termination message."""


class StorageAccess(KubernetesModel):
    """How s3:// URIs are reached; credentials come from the environment, never from here."""

    endpoint: str | None = None
    region: str | None = None
    patience_seconds: PatienceSeconds = PATIENCE_SECONDS
    refuse_link_local: bool = Field(
        False, description="Refuse an endpoint whose address is link-local, as those of clouds' metadata are."
    )


class RunRequest(KubernetesModel):
    """What a pod is asked to do."""

    name: str
    namespace: str
    uid: str
    workflow: Workflow
    output: Output
    storage: StorageAccess = Field(default_factory=StorageAccess)
    reuse: Literal["Allowed", "Never"] = "Allowed"
    default_calibration: str | None = Field(
        None, description="Where the text lies that a pass calibrates with when it names no data config."
    )

    @classmethod
    def from_spec(
        cls,
        name: str,
        namespace: str,
        uid: str,
        spec: QuantizationJobSpec,
        default_calibration: str | None = None,
        refuse_link_local: bool = False,
    ) -> "RunRequest":
        """The request for a job: of the spec, only what the pod needs. A pod trusts nobody: it looks."""
        return cls(
            name=name,
            namespace=namespace,
            uid=uid,
            workflow=spec.workflow,
            output=spec.output,
            storage=StorageAccess(
                endpoint=spec.storage.endpoint,
                region=spec.storage.region,
                patience_seconds=spec.storage.patience_seconds,
                refuse_link_local=refuse_link_local,
            ),
            reuse="Never" if spec.reuse == "Never" else "Allowed",
            default_calibration=default_calibration,
        )


class RunProgress(Progress):
    """How far a run has come, as its pod serves it at PROGRESS_PATH."""

    search: Trials | None = None
    """How far a search has come, all its workers together, as far as this one knows."""


class RunResult(KubernetesModel):
    """What a pod leaves: an artifact with its metrics, or a failure."""

    recipe: str | None = None
    artifact: Artifact | None = None
    metrics: Annotated[list[MetricResult], Field(max_length=16)] = Field(default_factory=list)
    trials: Annotated[list[Trial], Field(max_length=16)] = Field(default_factory=list)
    """Points of a search, best first; cut to what fits."""
    search: Trials | None = None
    failure: Failure | None = None

    @classmethod
    def from_message(cls, message: str) -> "RunResult":
        """The result in a termination message; a category of failure that this release does not know is Internal.

        Raises:
            ValueError: it is not a result.
        """
        try:
            return cls.as_told(message)
        except ValidationError as error:
            if [item["loc"] for item in error.errors()] != [("failure", "category")]:
                raise
        told = json.loads(message)
        told["failure"]["category"] = Category.INTERNAL
        return cls.as_told(json.dumps(told))

    def to_message(self) -> str:
        """The result as JSON of at most MAX_RESULT_BYTES bytes; long texts are cut, never the structure."""
        result = _with_fewer_trials(self)
        for limit in (1024, 512, 256, 64):
            text = result.model_dump_json(by_alias=True, exclude_none=True)
            if len(text.encode()) <= MAX_RESULT_BYTES:
                return text
            result = result.model_copy(deep=True)
            if result.failure:
                result.failure.message = result.failure.message[:limit]
                result.failure.hint = result.failure.hint[:limit]
            if result.artifact:
                result.artifact.readers = result.artifact.readers[: max(1, limit // 128)]
            for metric in result.metrics:
                metric.measured_with = metric.measured_with and metric.measured_with[: limit // 8]
        return RunResult(
            recipe=self.recipe,
            failure=Failure(
                category=Category.INTERNAL, message="the result does not fit a termination message"
            ),
        ).model_dump_json(by_alias=True, exclude_none=True)


def _with_fewer_trials(result: RunResult) -> RunResult:
    """The result with as many trials as there is room for, the best first."""
    trials = list(result.trials)
    while trials:
        result = result.model_copy(update={"trials": trials})
        if len(result.model_dump_json(by_alias=True, exclude_none=True).encode()) <= MAX_RESULT_BYTES:
            return result
        trials.pop()
    return result.model_copy(update={"trials": []})
