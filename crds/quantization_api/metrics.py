"""Metrics: what is measured of the input model and of the result, and what the result must reach.

KINDS says what each type needs and means; the rules, the goals, the report and the Olive translation read it there.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from quantization_api.bounded import Name, Uri
from quantization_api.input_paths import path_rule
from quantization_api.rules import ContractModel, Rule, joined
from quantization_api.speed import (
    BATCH_SIZE,
    MOST_NEW_TOKENS,
    MOST_PROMPT_TOKENS,
    MOST_SEQUENCES,
    NEW_TOKENS,
    PROMPT_TOKENS,
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


@dataclass(frozen=True)
class Kind:
    """What is known of a type of metric."""

    lower_is_better: bool
    needs: tuple[str, ...] = ()
    """Fields without which it cannot be measured; no other type may have them."""
    takes: tuple[str, ...] = ()
    """Fields that it may have; no other type may."""
    compares: bool = False
    """It says how far the result is from the input model; a goal that compares again has no meaning."""
    sampled: bool = False
    """It is measured on a sample and has a confidence interval; others are exact."""
    served: bool = False
    """It is measured of a model that is served."""


KINDS: dict[str, Kind] = {
    "perplexity": Kind(lower_is_better=True, needs=("data_config",), sampled=True),
    "kl_divergence": Kind(lower_is_better=True, needs=("data_config",), compares=True, sampled=True),
    "top1_agreement": Kind(lower_is_better=False, needs=("data_config",), compares=True, sampled=True),
    "size_on_disk": Kind(lower_is_better=True),
    "accuracy": Kind(
        lower_is_better=False,
        needs=("tasks", "tasks_from"),
        takes=("metric", "num_fewshot", "limit"),
        sampled=True,
    ),
    "latency": Kind(lower_is_better=True, served=True),
    "throughput": Kind(lower_is_better=False, served=True),
    "peak_memory": Kind(lower_is_better=True, served=True),
}

NOUNS = {"data_config": "a data_config"}
"""What a field is called in a sentence; others by their name."""
FIELDS_OF_TYPES = tuple(dict.fromkeys(field for kind in KINDS.values() for field in kind.needs + kind.takes))


def field_rule(field: str) -> Rule:
    """A field that some types need, or may have, and no other."""
    needing = [name for name, kind in KINDS.items() if field in kind.needs]
    taking = [name for name, kind in KINDS.items() if field in kind.takes]
    missing, foreign = (
        f" needs {NOUNS.get(field, field)} to measure on",
        f" is measured without {field}; leave {field} out",
    )

    def check(metric: Any) -> str | None:
        given = getattr(metric, field) is not None
        if given == (metric.type in needing) or (given and metric.type in taking):
            return None
        return f"{metric.type}{foreign if given else missing}"

    wrong = f'(self.type + (has(self.{field}) ? "{foreign}" : "{missing}"))'
    if taking:
        return Rule(
            f"!has(self.{field}) || self.type in {taking}", f'self.type + "{foreign}"', check, dynamic=True
        )
    return Rule(f"(self.type in {needing}) == has(self.{field})", wrong, check, dynamic=True)


LOWER_IS_BETTER_TASK_METRICS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
COMPARING = [name for name, kind in KINDS.items() if kind.compares]


def lower_is_better(kind: str, task_metric: str | None = None) -> bool:
    """Which way is better, for a type of metric; task_metric: in lm-eval's words, for tasks."""
    return task_metric in LOWER_IS_BETTER_TASK_METRICS or KINDS[kind].lower_is_better


class Metric(ContractModel):
    """One thing that is measured of the input model and of the result."""

    name: Name = Field(description="Name of the metric in the status.")
    type: Literal[
        "perplexity",
        "kl_divergence",
        "top1_agreement",
        "accuracy",
        "latency",
        "throughput",
        "peak_memory",
        "size_on_disk",
    ] = Field(
        description="On held-out text: perplexity; kl_divergence (nats per token) and top1_agreement (share of tokens "
        "at which both choose the same next one), both against the input model. On tasks of lm-eval: accuracy. "
        "Without data: size_on_disk in bytes; or, of the model in software that serves it, latency (milliseconds), "
        "throughput (tokens per second) or peak_memory (bytes that its process holds)."
    )
    data_config: Name | None = Field(None, description="Name of the data config to measure on.")
    goal: Goal | None = Field(
        None,
        description="A result that misses it is not published. Where a metric has a confidence interval, its worse "
        "end must meet the goal.",
    )
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
    tasks: Annotated[list[Name], Field(min_length=1, max_length=16)] | None = Field(
        None,
        description="Names of tasks of lm-eval, for accuracy: the value is the mean of theirs, of perplexities the "
        "geometric one.",
    )
    tasks_from: Uri | None = Field(
        None,
        description="s3:// URI or path of the folder with the tasks' YAML files, without code, and their data files.",
    )
    metric: (
        Literal[
            "acc",
            "acc_norm",
            "acc_bytes",
            "acc_mutual_info",
            "exact_match",
            "perplexity",
            "word_perplexity",
            "byte_perplexity",
            "bits_per_byte",
        ]
        | None
    ) = Field(
        None,
        description="What lm-eval makes of each task's documents. If unset: acc. Every task must have it.",
    )
    num_fewshot: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Examples before each question. If unset, or where a task says 0: the task's own number.",
    )
    limit: Annotated[int, Field(ge=1, le=1048576)] | None = Field(
        None, description="Documents of each task, from the first on. If unset: all."
    )
    RULES: ClassVar[tuple[Rule, ...]] = (
        joined([field_rule(field) for field in FIELDS_OF_TYPES]),
        path_rule("tasks_from", "tasks", optional=True),
        Rule(
            cel=f"!(self.type in {COMPARING}) || !has(self.goal) || self.goal.type == 'threshold'",
            message='self.type + " already compares with the input model; its goal type must be threshold"',
            dynamic=True,
            check=lambda m: (
                f"{m.type} already compares with the input model; its goal type must be threshold"
                if m.type in COMPARING and m.goal is not None and m.goal.type != "threshold"
                else None
            ),
        ),
        *SPEED_RULES,
    )

    @property
    def served(self) -> bool:
        """Whether it is measured of a model that is served."""
        return KINDS[self.type].served

    @property
    def lower_is_better(self) -> bool:
        """Which way is better."""
        return lower_is_better(self.type, self.metric)

    @property
    def sampled(self) -> bool:
        """Whether its figures have a confidence interval."""
        return KINDS[self.type].sampled

    @property
    def drawn(self) -> str:
        """What its interval is made of, one of which has none."""
        return "document" if self.tasks else "sequence"


class Evaluator(ContractModel):
    """A named list of metrics."""

    name: Name = Field(description="Name by which the workflow chooses it.")
    metrics: Annotated[list[Metric], Field(min_length=1, max_length=8)] = Field(
        description="What to measure."
    )
