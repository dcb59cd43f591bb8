"""What an administrator gives jobs that do not say it themselves: defaults of the cluster, and classes of resources.

A job's own values win, then those of its `resourceClass`, then the defaults. Maps are taken key by key, lists of named
things name by name, anything else as a whole. Pure; `defaults_file` reads them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from quantization_api.bounded import DnsName
from quantization_api.failures import Category
from quantization_api.faults import sentences
from quantization_api.rules import KubernetesModel
from quantization_api.spec import QuantizationJobSpec, Storage
from quantization_api.status import Failure
from quantization_api.template import PodTemplate
from quantization_operator.diagnose import failure
from quantization_operator.pod_spec import as_kubernetes
from quantization_operator.queue_entry import QUEUE_LABEL

Json = dict[str, Any]

BY_KEY = ("labels", "annotations", "nodeSelector")
BY_NAME = ("imagePullSecrets", "env", "volumes", "resourceClaims")
IMAGE_SENTENCE = (
    "the images of jobs that name none are settings of the operator: write QUANTIZATION_OPERATOR_QUANTIZER_IMAGE and "
    "QUANTIZATION_OPERATOR_LEGACY_IMAGE"
)
LEAST_RETENTION = 3600
"""Seconds: the operator, also one that was down, must have read the end of a Job before that is gone."""


class Defaults(KubernetesModel):
    """The file of an administrator. What it names is allowed, whatever the operator's settings allow jobs to name."""

    template: PodTemplate = Field(default_factory=PodTemplate, description="As spec.template.")
    storage: Storage = Field(
        default_factory=Storage, description="As spec.storage, for jobs that name no endpoint."
    )
    queue_name: DnsName | None = Field(None, description="LocalQueue of Kueue, for jobs without the label.")
    ttl_seconds_after_finished: Annotated[int, Field(ge=LEAST_RETENTION)] | None = Field(
        None,
        description="Seconds after which a Job that has ended goes, with its pods and their logs. If unset, they "
        "stay as long as the QuantizationJob.",
    )
    resource_classes: dict[DnsName, PodTemplate] = Field(
        default_factory=dict, description="What spec.resourceClass may name: a template each."
    )

    @model_validator(mode="after")
    def _no_image(self) -> Self:
        """The stock packages need another image than the engine: which a job gets follows from its passes."""
        if any(each.image for each in (self.template, *self.resource_classes.values())):
            raise PydanticCustomError("image", IMAGE_SENTENCE)
        return self


@dataclass(frozen=True, slots=True)
class Beside:
    """What a Job has from the defaults beside what its spec says."""

    told: str = ""
    """The fields that the job has from the defaults, separated by commas."""
    queue_labels: Mapping[str, str] = field(default_factory=dict)
    job_fields: Mapping[str, int] = field(default_factory=dict)


NOTHING = Beside()


@dataclass(frozen=True, slots=True)
class Given:
    """A spec with what the administrator gave it."""

    spec: QuantizationJobSpec
    beside: Beside = NOTHING


def given(spec: QuantizationJobSpec, defaults: Defaults, queued: Mapping[str, str]) -> Given | Failure:
    """The spec that the Job is made from, or why there is none. queued: the labels of a queue that the job has."""
    classes, name = defaults.resource_classes, spec.resource_class
    if name is not None and name not in classes:
        return _no_such_class(name, classes)
    if name is None and defaults.model_fields_set <= {"resource_classes"}:
        return Given(spec)
    own = as_kubernetes(spec.template)
    in_class = merged(as_kubernetes(classes[name]), own) if name else own
    template = merged(as_kubernetes(defaults.template), in_class)
    storage = _storage(defaults.storage, spec.storage)
    told = [
        *(f"template.{field} (resourceClass {name})" for field in _differ(own, in_class)),
        *(f"template.{field}" for field in _differ(in_class, template)),
        *(f"storage.{field}" for field in _differ(as_kubernetes(spec.storage), storage)),
    ]
    try:
        parts = {
            "template": PodTemplate.model_validate(template),
            "storage": Storage.model_validate(storage),
        }
    except ValidationError as error:
        said = "; ".join(sentences(error, "spec.template")[:4])
        return failure(Category.INVALID_WORKFLOW, f"with the defaults of the cluster, {said}", hint=TOGETHER)
    return Given(spec.model_copy(update=parts), _beside(defaults, queued, told))


TOGETHER = (
    "Change what the message names in spec.template, or ask the operator's administrator for other defaults."
)


def _beside(defaults: Defaults, queued: Mapping[str, str], told: list[str]) -> Beside:
    queue = {} if QUEUE_LABEL in queued or not defaults.queue_name else {QUEUE_LABEL: defaults.queue_name}
    retention = defaults.ttl_seconds_after_finished
    fields = {} if retention is None else {"ttlSecondsAfterFinished": retention}
    told = [*told, *["queueName"] * bool(queue), *["ttlSecondsAfterFinished"] * bool(fields)]
    return Beside(", ".join(told), queue, fields)


def _no_such_class(name: str, classes: Mapping[str, PodTemplate]) -> Failure:
    known = ", ".join(classes) or "none; write spec.template.resources instead"
    return failure(
        Category.INVALID_WORKFLOW,
        f"spec.resourceClass: there is no class {name} here; there are: {known}",
        hint="Name a class that there is, or ask the operator's administrator to define it.",
    )


def _differ(below: Json, above: Json) -> Iterator[str]:
    return (name for name, value in above.items() if below.get(name) != value)


def merged(below: Json, above: Json) -> Json:
    """A template over another one, both as JSON data."""
    both = below.keys() & above.keys()
    return below | above | {name: _field(name, below[name], above[name]) for name in both}


def _field(name: str, below: Any, above: Any) -> Any:
    if name in BY_KEY:
        return below | above
    if name in BY_NAME:
        return list(({item["name"]: item for item in (*below, *above)}).values())
    if name == "resources":
        return _resources(below, above)
    return above


def _resources(below: Json, above: Json) -> Json:
    """Resource by resource: a request from here and a limit from there might not go together."""
    named = {resource for kind in ("requests", "limits") for resource in above.get(kind, {})}
    kept = {
        kind: {resource: value for resource, value in below.get(kind, {}).items() if resource not in named}
        for kind in ("requests", "limits")
    }
    made = {kind: kept[kind] | above.get(kind, {}) for kind in kept}
    return {kind: values for kind, values in (below | above | made).items() if values}


def _storage(below: Storage, above: Storage) -> Json:
    """Region and Secret belong to the endpoint: of another one nothing is taken."""
    own = as_kubernetes(above)
    return own if above.endpoint is not None else as_kubernetes(below) | own
