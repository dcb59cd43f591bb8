"""Fields of Olive's run configs that have no equivalent here, each with the reason; the contract's come first.

A field either computes nothing here and is left out, or it would change the result and is refused. The contract says
which in its sentence: one that ends with "leave it out" computes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantization_api.passes import NO_CODE, PassBase
from quantization_api.workflow import (
    DataConfig,
    InputModel,
    LoadDatasetConfig,
    PreProcessDataConfig,
    Workflow,
)

CURE = "; leave it out"


@dataclass(frozen=True)
class Field:
    """A field without an equivalent."""

    reason: str
    """Why, and for a refused one what to write instead."""
    changes: bool | Callable[[Any], bool]
    """Whether the result is another one without it: refused then, else left out. It may depend on the value."""
    idle: tuple[Any, ...] = ()
    """Values that ask for nothing, Olive's default among them: nobody needs to hear of them."""

    def changes_the_result(self, value: Any) -> bool:
        """Whether the field with this value must be refused."""
        return self.changes(value) if callable(self.changes) else self.changes

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether the value is one of the idle ones; 0 is not False."""
        return any(type(value) is type(idle) and value == idle for idle in self.idle)


Fields = Mapping[str, Field]


def left_out(reason: str, *idle: Any) -> Field:
    """A field that computes nothing here."""
    return Field(reason, False, idle)


def refused(reason: str, *idle: Any) -> Field:
    """A field that would change the result."""
    return Field(reason, True, idle)


def _contract(table: Mapping[str, str]) -> dict[str, Field]:
    return {
        name: left_out(reason.removesuffix(CURE))
        if reason.endswith(CURE) and reason != NO_CODE
        else refused(reason)
        for name, reason in table.items()
    }


LOGS = left_out("logs are JSON lines on standard error")
CACHE = left_out("finished work at output.uri is reused by its recipe")
WHERE = left_out("spec.template says where a job runs")
NO_PADDING = left_out("sequences are cut from the text and never padded")
BATCHES = left_out("the engine chooses its own batches, which cannot change the result")
IN_ORDER = left_out("sequences are taken in the order of the text")
ONE_JOB = "one manifest is one job; write several run configs"
NO_MODEL_CODE = left_out("code of a model is never run", False)
OWN_TYPE = left_out("weights are read in the data type in which they are stored")
LOADING = left_out("weights are read tensor by tensor, without transformers")

CONFIG: Fields = {
    **_contract(Workflow.REFUSED),
    "output_dir": left_out("the artifact goes to spec.output.uri"),
    "workflow_id": left_out("the job's name is metadata.name; --name sets it"),
    "workflow_host": WHERE,
    "auto_optimizer_config": refused("there is no automatic choice of passes; list them in passes"),
    "builds": refused(ONE_JOB),
    "max_concurrent_builds": left_out("one manifest is one job"),
    "cache_config": CACHE,
    "clean_cache": left_out("to compute again, write reuse: Never beside the workflow", False),
    "clean_evaluation_cache": left_out("evaluations are not cached", False),
    "enable_shared_cache": CACHE,
    "plot_pareto_frontier": left_out("the report always has its plots", False),
    "no_artifacts": left_out("a job always makes an artifact", False),
    "evaluate_input_model": left_out("the input model is always evaluated too", True),
    "log_severity_level": LOGS,
    "ort_log_severity_level": LOGS,
    "ort_py_log_severity_level": LOGS,
    "log_to_file": LOGS,
}
INPUT_MODEL: Fields = {
    **{name: field for name, field in _contract(InputModel.REFUSED).items() if name != "load_kwargs"},
    "model_attributes": left_out("they are read from config.json"),
    "test_model_path": left_out("the real model is quantized"),
    "test_model_config": left_out("the real model is quantized"),
}
LOAD_KWARGS: Fields = {
    "torch_dtype": OWN_TYPE,
    "dtype": OWN_TYPE,
    "trust_remote_code": NO_MODEL_CODE,
    "attn_implementation": LOADING,
    "low_cpu_mem_usage": LOADING,
    "use_safetensors": LOADING,
    "device_map": LOADING,
    "max_memory": LOADING,
    "use_cache": LOADING,
    "cache_dir": LOADING,
    "token": LOADING,
    "quantization_method": refused("the input model must not be quantized; name the original model"),
    "quantization_config": refused("the input model must not be quantized; name the original model"),
    "revision": refused("write the digest that quantizer inspect prints as input_model.revision"),
}
DATA_CONFIG: Fields = {
    **_contract(DataConfig.REFUSED),
    "post_process_data_config": left_out("metrics are computed from logits"),
    "dataloader_config": BATCHES,
    "components": refused("write its parts as load_dataset_config and pre_process_data_config"),
}
LOAD_DATASET: Fields = {
    **_contract(LoadDatasetConfig.REFUSED),
    "type": left_out("text is read from files"),
    "trust_remote_code": left_out("code of a data set is never run", False),
    "col_filters": refused("store the filtered text as the data set"),
    "streaming": left_out("files are read whole", False),
}
PRE_PROCESS: Fields = {
    **_contract(PreProcessDataConfig.REFUSED),
    "type": left_out("text becomes sequences of tokens in one way, which strategy chooses"),
    "pad_to_max_len": NO_PADDING,
    "padding_side": NO_PADDING,
    "use_attention_mask": NO_PADDING,
    "drop_short_sequences": refused("write strategy: join, which has no short sequences", False),
    "stride": refused("sliding windows are not available; write strategy: join"),
    "random_seed": IN_ORDER,
    "random_retries": IN_ORDER,
    "processing_batch_size": BATCHES,
    "batch_size": BATCHES,
    "message_col": refused("store the finished text in the data set and name its column in text_cols"),
    "input_cols": refused("name the text column in text_cols"),
    "model_name": left_out("the tokenizer is the input model's"),
    "tokenizer_name": left_out("the tokenizer is the input model's"),
    "trust_remote_code": NO_MODEL_CODE,
    "task": left_out("it is input_model.task"),
}
PASS: Fields = {
    **_contract(PassBase.REFUSED),
    "disable_search": left_out("parameters are searched where values are given", True),
    "output_name": left_out("the artifact has one layout"),
    "clean_run_cache": CACHE,
}
REPEATS = ("warmup_num", "repeat_test_num", "sleep_num", "io_bind", "inference_settings")
"""What Olive's user_config says of how often speed is measured, which is decided here."""


def _runs_code(user_config: Any) -> bool:
    """Whether more than repeats is asked for."""
    return not isinstance(user_config, dict) or not set(user_config) <= set(REPEATS)


EVALUATOR: Fields = {
    "type": refused("an evaluator here is a list of metrics; write metrics"),
}
LM_EVALUATOR: Fields = {
    "type": left_out("the metric's type says it"),
    "model_class": left_out("the model is run layer by layer"),
    "batch_size": BATCHES,
    "device": WHERE,
    "max_length": refused("a text may be as long as the model takes; leave it out"),
}
METRIC: Fields = {
    "user_config": Field(
        "a metric runs no code from a manifest, and is repeated as often as it needs", _runs_code
    ),
    "backend": left_out("metrics are computed by the engine"),
}
SUB_TYPE: Fields = {
    "metric_config": Field(
        "metrics here have no options, and speed is measured until it is known well", _runs_code, ({},)
    ),
}
