"""The metrics of a workflow as axes: what each is called, which way is better, whether it is about speed."""

from dataclasses import dataclass
from typing import get_args

from pydantic import ValidationError

from quantization_api.manifest import Manifest
from quantization_api.metrics import KINDS, Metric
from quantization_api.status import MetricResult
from quantization_api.workflow import Workflow
from quantizer.report.quality import format_value

SPEEDS = frozenset({"latency", "throughput"})
SIZE = "size_on_disk"


@dataclass(frozen=True)
class Measure:
    """A metric."""

    name: str
    type: str

    @property
    def lower_is_better(self) -> bool:
        """Which way is better."""
        return KINDS[self.type].lower_is_better

    @property
    def is_speed(self) -> bool:
        """Whether it is about time, not about quality."""
        return self.type in SPEEDS


def measures(manifest: Manifest) -> list[Measure]:
    """The metrics of the workflow, in its order, without sizes, which are known of every artifact."""
    try:
        asked = Workflow.model_validate(manifest.workflow).metrics()
    except ValidationError:  # an artifact of a release with other rules: a metric is often called by its type
        asked = []
    types: dict[str, str] = {metric.name: metric.type for metric in asked}
    shown = types or {name: name for name in _known(manifest)}
    return [Measure(name, kind) for name, kind in shown.items() if kind != SIZE]


def _known(manifest: Manifest) -> list[str]:
    """Names that are types."""
    types = get_args(Metric.model_fields["type"].annotation)
    return [result.name for result in manifest.metrics if result.name in types]


def interval(result: MetricResult | None) -> str:
    """The 95 % confidence interval of a result; "" where it is not known."""
    if result is None or result.low is None or result.high is None:
        return ""
    return f"{format_value(result.low)} to {format_value(result.high)}"
