"""Metrics: what is measured of the input model and of the result, and what the result must reach."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quantization_api.bounded import Name
from quantization_api.rules import ContractModel, Rule
from quantization_api.speed import (
    BATCH_SIZE,
    MOST_NEW_TOKENS,
    MOST_PROMPT_TOKENS,
    MOST_SEQUENCES,
    NEW_TOKENS,
    PROMPT_TOKENS,
    SPEED_METRICS,
    SPEED_RULES,
)


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


NEEDS_DATA = ("perplexity", "kl_divergence")
WITHOUT_DATA = ("size_on_disk", *SPEED_METRICS)


NO_ACCURACY = (
    "metric type accuracy is not available in this release; choose perplexity, kl_divergence, latency, throughput, "
    "peak_memory or size_on_disk"
)


class Metric(ContractModel):
    """One thing that is measured of the input model and of the result."""

    name: Name = Field(description="Name of the metric in the status.")
    type: Literal[
        "perplexity", "kl_divergence", "accuracy", "latency", "throughput", "peak_memory", "size_on_disk"
    ] = Field(
        description="perplexity or kl_divergence (nats per token, against the input model) on held-out text; "
        "size_on_disk in bytes; or, of the model in software that serves it, latency (milliseconds), throughput "
        "(tokens per second) or peak_memory (bytes that its process holds). accuracy is not available in this "
        "release and is refused."
    )
    data_config: Name | None = Field(None, description="Name of the data config to measure on.")
    goal: Goal | None = Field(None, description="A result that misses it is not published.")
    phase: Literal["prefill", "decode"] | None = Field(
        None,
        description="Of latency and throughput. prefill: until the first token behind the prompt; decode, the "
        "default: each later token.",
    )
    prompt_tokens: Annotated[int, Field(ge=1, le=MOST_PROMPT_TOKENS)] | None = Field(
        None,
        description=f"Length of each prompt; {PROMPT_TOKENS} if not given. Of latency, throughput and peak_memory.",
    )
    new_tokens: Annotated[int, Field(ge=2, le=MOST_NEW_TOKENS)] | None = Field(
        None,
        description=f"Tokens that follow each prompt; {NEW_TOKENS} if not given. Of decode and peak_memory.",
    )
    batch_size: Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] | None = Field(
        None,
        description=f"Prompts that are served together; {BATCH_SIZE} if not given. Of latency, throughput and "
        "peak_memory.",
    )
    software: Literal["auto", "transformers", "vllm", "onnxruntime"] | None = Field(
        None,
        description="What serves the model while it is measured. auto, the default: onnxruntime after a ModelBuilder, "
        "else vllm where it is installed and reads the result, else transformers.",
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.type != 'accuracy'",
            message=NO_ACCURACY,
            check=lambda m: NO_ACCURACY if m.type == "accuracy" else None,
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
            cel="!has(self.data_config) || self.type in ['perplexity', 'kl_divergence']",
            message='self.type + " is measured without data; leave data_config out"',
            dynamic=True,
            check=lambda m: (
                f"{m.type} is measured without data; leave data_config out"
                if m.type in WITHOUT_DATA and m.data_config is not None
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
        *SPEED_RULES,
    )

    def served(self) -> bool:
        """Whether it is measured of a model that is served."""
        return self.type in SPEED_METRICS


class Evaluator(ContractModel):
    """A named list of metrics."""

    name: Name = Field(description="Name by which the workflow chooses it.")
    metrics: Annotated[list[Metric], Field(min_length=1, max_length=8)] = Field(
        description="What to measure."
    )
