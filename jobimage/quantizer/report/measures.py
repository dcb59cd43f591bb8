"""The metrics of a workflow as axes: what each is called, which way is better, whether it is about serving."""

from dataclasses import dataclass

from pydantic import ValidationError

from quantization_api.manifest import Manifest
from quantization_api.metrics import KINDS, lower_is_better
from quantization_api.status import MetricResult
from quantization_api.workflow import Workflow
from quantizer.report.quality import IN_UNITS, SIZE, format_value

UNITS = {"latency": " in ms", "throughput": " in tokens/s", "peak_memory": " in MB"}
"""On an axis, by type; the others have none."""


@dataclass(frozen=True)
class Measure:
    """A metric."""

    name: str
    type: str
    task_metric: str | None = None
    """Of tasks: which of lm-eval's metrics it is."""

    @property
    def lower_is_better(self) -> bool:
        """Which way is better."""
        return lower_is_better(self.type, self.task_metric)

    @property
    def is_cost(self) -> bool:
        """Whether it is about serving the model, not about what the model says."""
        return KINDS[self.type].served

    @property
    def label(self) -> str:
        """Name and unit, for an axis."""
        return self.name + UNITS.get(self.type, "")

    def on_axis(self, value: float) -> float:
        """In that unit."""
        return value / 1e6 if self.type == "peak_memory" else value

    def write(self, value: float | None) -> str:
        """A value with its unit; "-" without one."""
        return format_value(None) if value is None else IN_UNITS.get(self.type, format_value)(value)

    def interval(self, result: MetricResult | None) -> str:
        """The 95 % confidence interval of a result; "" where it is not known."""
        if result is None or result.low is None or result.high is None:
            return ""
        return f"{self.write(result.low)} to {self.write(result.high)}"


def measures(manifest: Manifest) -> list[Measure]:
    """The metrics of the workflow, in its order, without sizes, which are known of every artifact."""
    try:
        asked = Workflow.model_validate(manifest.workflow).metrics()
    except ValidationError:  # an artifact of a release with other rules: a metric is often called by its type
        asked = []
    known = [Measure(metric.name, metric.type, metric.metric) for metric in asked]
    shown = known or [Measure(one.name, one.name) for one in manifest.metrics if one.name in KINDS]
    return [one for one in shown if one.type != SIZE]
