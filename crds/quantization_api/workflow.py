"""The workflow: WHAT is computed, in the words of a Microsoft Olive run config (v0.7).

Olive's maps with an order (`passes`) or with names (`data_configs`, `evaluators`) are lists here, since
Kubernetes does not keep the order of a map. Everything else keeps its name, type, default and nesting.
"""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from quantization_api.bounded import Name, ShortText, Uri
from quantization_api.input_paths import path_rule
from quantization_api.metrics import Evaluator, Metric
from quantization_api.passes import NO_CODE, Pass
from quantization_api.references import (
    MOST_DATA_CONFIGS,
    MOST_EVALUATORS,
    evaluator_reference,
    metric_reference,
    pass_reference,
)
from quantization_api.rules import ContractModel, Rule, joined
from quantization_api.search import SearchStrategy
from quantization_api.search_rules import (
    HAS_CHAINS,
    endless,
    impossible_chain,
    impossible_value,
    search_rules,
)
from quantization_api.sequence_refusals import ALONE, SEQUENCE


class InputModel(ContractModel):
    """The model to quantize."""

    type: Literal["HfModel"] = Field(
        "HfModel", description="A model in the format of Hugging Face transformers."
    )
    model_path: Uri = Field(description="s3://BUCKET/PREFIX, or a path in the pod such as /models/NAME.")
    revision: ShortText | None = Field(
        None,
        description="Expected revision: the sha256 digest that `quantizer inspect` prints. Any other is refused.",
    )
    task: Literal["text-generation", "text-generation-with-past"] = Field(
        "text-generation-with-past", description="Olive's name of the task."
    )
    REFUSED: ClassVar[dict[str, str]] = {
        "load_kwargs": "weights are read tensor by tensor in their own dtype; leave it out",
        "io_config": "it describes ONNX graphs of other tasks; leave it out",
        "adapter_path": "adapters are not merged; merge the adapter into the model first",
        "model_script": NO_CODE,
        "script_dir": NO_CODE,
    }
    RULES: ClassVar[tuple[Rule, ...]] = (path_rule("model_path", "model"),)


class LoadDatasetConfig(ContractModel):
    """Where a data set is read from."""

    data_name: Uri = Field(
        description="s3:// URI or path of a file (.txt, .jsonl, .json, .csv; each also with .gz), or of a folder with "
        "SPLIT.EXT files."
    )
    split: ShortText = Field(
        "validation",
        description="Name of the file to read from a folder, without its extension; ignored for a single file.",
    )
    REFUSED: ClassVar[dict[str, str]] = {
        "subset": "a subset exists only on a hub; name its folder in data_name",
        "data_dir": "name the folder in data_name",
        "data_files": "name the file in data_name",
        "user_script": NO_CODE,
        "script_dir": NO_CODE,
    }
    RULES: ClassVar[tuple[Rule, ...]] = (path_rule("data_name", "data set"),)


class PreProcessDataConfig(ContractModel):
    """How text becomes sequences of tokens (Olive's text-generation pre-process)."""

    strategy: Literal["join", "line-by-line"] = Field(
        "join",
        description="join: rows are joined and cut into consecutive sequences; line-by-line: one sequence per row.",
    )
    max_seq_len: Annotated[int, Field(ge=8, le=1048576)] = Field(1024, description="Tokens per sequence.")
    max_samples: Annotated[int, Field(ge=1, le=1048576)] | None = Field(
        None, description="Number of sequences; a data set with fewer is refused. If unset: all."
    )
    text_cols: ShortText = Field(
        "text", description="Column that holds the text in .jsonl, .json and .csv files."
    )
    joiner: ShortText = Field("\n\n", description="Text inserted between rows when they are joined.")
    add_special_tokens: bool = Field(True, description="Let the tokenizer add its special tokens to a text.")
    REFUSED: ClassVar[dict[str, str]] = {
        "text_formatting_func": NO_CODE,
        "text_template": "write the finished text into the data set",
        "chat_template": "write the finished text into the data set",
        "user_script": NO_CODE,
        "script_dir": NO_CODE,
    }


class DataConfig(ContractModel):
    """A named data set: where it lies and how it becomes tokens."""

    name: Name = Field(description="Name by which passes and metrics refer to it.")
    type: Literal["HuggingfaceContainer"] = Field(
        "HuggingfaceContainer", description="Olive's container type."
    )
    load_dataset_config: LoadDatasetConfig
    pre_process_data_config: PreProcessDataConfig = Field(
        default_factory=PreProcessDataConfig, description="How the text becomes sequences of tokens."
    )
    REFUSED: ClassVar[dict[str, str]] = {"user_script": NO_CODE, "script_dir": NO_CODE}


class Workflow(ContractModel):
    """What is computed. Immutable: with the model's revision and the engine's version it names the result."""

    input_model: InputModel
    data_configs: Annotated[list[DataConfig], Field(max_length=MOST_DATA_CONFIGS)] = Field(
        default_factory=list, description="Named data sets.", json_schema_extra={"x-map-key": "name"}
    )
    passes: Annotated[list[Pass], Field(min_length=1, max_length=8)] = Field(
        description="What to do, in order: a QuaRot, a GptqQuantizer or an AutoAWQQuantizer, or a QuaRot and "
        "then a GptqQuantizer; a ModelBuilder may be the last."
    )
    evaluators: Annotated[list[Evaluator], Field(max_length=MOST_EVALUATORS)] = Field(
        default_factory=list,
        description="Named lists of metrics.",
        json_schema_extra={"x-map-key": "name"},
    )
    evaluator: Name | None = Field(None, description="Name of the evaluator that judges the result.")
    search_strategy: SearchStrategy | None = Field(
        None,
        description="Search over parameters of the passes, and over passes. If unset: one result, of the passes as "
        "they are written.",
    )
    REFUSED: ClassVar[dict[str, str]] = {
        "systems": "spec.template says where a job runs; leave it out",
        "engine": "write its field evaluator directly into the workflow",
        "azureml_client": "AzureML is not used; leave it out",
        "host": "spec.template says where a job runs; leave it out",
        "target": "spec.template says where a job runs; leave it out",
        "cache_dir": "results are stored at spec.output.uri; leave it out",
        "output_dir": "write spec.output.uri",
        "packaging_config": "the artifact has a fixed layout; leave it out",
        "user_script": NO_CODE,
        "script_dir": NO_CODE,
    }
    RULES: ClassVar[tuple[Rule, ...]] = (
        pass_reference("data_config"),
        pass_reference("calibration_data_config"),
        metric_reference(),
        evaluator_reference(),
        Rule(
            cel="!has(self.evaluators) || self.evaluators.size() == 0 || has(self.evaluator)",
            message="evaluators are given, but evaluator names none of them; write evaluator: NAME",
            check=lambda w: (
                "evaluators are given, but evaluator names none of them; write evaluator: NAME"
                if w.evaluators and w.evaluator is None
                else None
            ),
        ),
        *search_rules(),
    )

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """The rules above, and which passes may follow one another."""
        sequence = joined(
            [refusal.rule(cls) for refusal in SEQUENCE], unless=f"{ALONE} || {HAS_CHAINS}", field="passes"
        )
        check = sequence.check
        return (*cls.RULES, replace(sequence, check=lambda w: None if w.chains else check and check(w)))

    @property
    def chains(self) -> list[list[str]]:
        """Of the search: alternatives of which each is a sequence; none: the passes are the sequence."""
        return self.search_strategy.chains if self.search_strategy else []

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        """What only Python can tell: values and sequences that no point can have."""
        strategy = self.search_strategy
        if strategy is not None:
            said = (
                impossible_chain(self.passes, strategy)
                or impossible_value(self.passes, strategy)
                or endless(strategy)
            )
            if said is not None:
                raise PydanticCustomError("search", "{sentence}", {"sentence": said})
        return self

    def data_config(self, name: str) -> DataConfig:
        """The data config of that name (references are checked when the workflow is made)."""
        return next(config for config in self.data_configs if config.name == name)

    def used_data_configs(self) -> list[str]:
        """Names of the data configs that the passes and the chosen evaluator's metrics refer to, each once."""
        fields = ("data_config", "calibration_data_config")
        names = [getattr(item, field, None) for item in self.passes for field in fields]
        names += [metric.data_config for metric in self.metrics()]
        return list(dict.fromkeys(name for name in names if name is not None))

    def metrics(self) -> list[Metric]:
        """The metrics of the chosen evaluator, or none."""
        return next((e.metrics for e in self.evaluators if e.name == self.evaluator), [])


def canonical(value: Any) -> Any:
    """A JSON value without what is not set: equal workflows have equal canonical forms."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in sorted(value.items()) if item is not None}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return value
