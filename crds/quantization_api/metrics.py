"""Metrics: what is measured of the input model and of the result, and what the result must reach."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quantization_api.bounded import Name
from quantization_api.rules import ContractModel, Rule


class Goal(ContractModel):
    """What a metric of the result must reach; improvement and degradation are relative to the input model."""

    type: Literal[
        "threshold",
        "min-improvement",
        "percent-min-improvement",
        "max-degradation",
        "percent-max-degradation",
    ] = Field(description="threshold is absolute; the others compare with the input model.")
    value: float = Field(description="In the unit of the metric, or in percent.")


AVAILABLE_METRICS = ("perplexity", "kl_divergence", "size_on_disk")
NEEDS_DATA = ("perplexity", "kl_divergence")


class Metric(ContractModel):
    """One thing that is measured of the input model and of the result."""

    name: Name = Field(description="Name of the metric in the status.")
    type: Literal["perplexity", "kl_divergence", "accuracy", "latency", "throughput", "size_on_disk"] = Field(
        description="perplexity or kl_divergence (nats per token, against the input model) on held-out text, or "
        "size_on_disk in bytes. The others are not available in this release and are refused."
    )
    data_config: Name | None = Field(None, description="Name of the data config to measure on.")
    goal: Goal | None = Field(None, description="A result that misses it is not published.")
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.type in ['perplexity', 'kl_divergence', 'size_on_disk']",
            message='"metric type " + self.type + " is not available in this release; '
            'choose perplexity, kl_divergence or size_on_disk"',
            dynamic=True,
            check=lambda m: (
                None
                if m.type in AVAILABLE_METRICS
                else f"metric type {m.type} is not available in this release; "
                "choose perplexity, kl_divergence or size_on_disk"
            ),
            field="type",
        ),
        Rule(
            cel="!(self.type in ['perplexity', 'kl_divergence']) || has(self.data_config)",
            message='self.type + " needs a data_config to measure on"',
            dynamic=True,
            check=lambda m: (
                f"{m.type} needs a data_config to measure on"
                if m.type in NEEDS_DATA and m.data_config is None
                else None
            ),
        ),
        Rule(
            cel="self.type != 'size_on_disk' || !has(self.data_config)",
            message="size_on_disk is measured without data; leave data_config out",
            check=lambda m: (
                "size_on_disk is measured without data; leave data_config out"
                if m.type == "size_on_disk" and m.data_config is not None
                else None
            ),
        ),
        Rule(
            cel="self.type != 'kl_divergence' || !has(self.goal) || self.goal.type == 'threshold'",
            message="kl_divergence already compares with the input model; its goal type must be threshold",
            check=lambda m: (
                "kl_divergence already compares with the input model; its goal type must be threshold"
                if m.type == "kl_divergence" and m.goal is not None and m.goal.type != "threshold"
                else None
            ),
        ),
    )


class Evaluator(ContractModel):
    """A named list of metrics."""

    name: Name = Field(description="Name by which the workflow chooses it.")
    metrics: Annotated[list[Metric], Field(min_length=1, max_length=8)] = Field(
        description="What to measure."
    )
