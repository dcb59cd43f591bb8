"""Fields of Olive's run configs that have no equivalent here, each with the reason; the contract's come first.

The keys of FIELDS are the kinds of objects in a run config. A field that is neither translated nor listed here
is refused as unknown by the contract's models.
"""

from quantization_api.passes import PassBase
from quantization_api.workflow import (
    DataConfig,
    InputModel,
    LoadDatasetConfig,
    PreProcessDataConfig,
    Workflow,
)

LOGS = "logs are JSON lines on standard error; leave it out"
CACHE = "finished work at output.uri is reused by its recipe; leave it out"
NO_PADDING = "sequences are cut from the text and never padded; leave it out"
BATCHES = "the engine chooses its own batches, which cannot change the result; leave it out"
WHERE = "spec.template says where a job runs; leave it out"
ONE_JOB = "one manifest is one job; write several manifests"

FIELDS: dict[str, dict[str, str]] = {
    "config": {
        **Workflow.REFUSED,
        "workflow_id": "the job's name is metadata.name; use --name",
        "workflow_host": WHERE,
        "auto_optimizer_config": "there is no automatic choice of passes; list them in passes",
        "builds": ONE_JOB,
        "max_concurrent_builds": ONE_JOB,
        "cache_config": CACHE,
        "clean_cache": "to compute again, write reuse: Never beside the workflow",
        "clean_evaluation_cache": "evaluations are not cached; leave it out",
        "enable_shared_cache": CACHE,
        "plot_pareto_frontier": "the report always has its plots; leave it out",
        "no_artifacts": "a job always makes an artifact; leave it out",
        "log_severity_level": LOGS,
        "ort_log_severity_level": LOGS,
        "ort_py_log_severity_level": LOGS,
        "log_to_file": LOGS,
    },
    "input_model": {
        **InputModel.REFUSED,
        "model_attributes": "they are read from config.json; leave it out",
        "test_model_path": "the real model is quantized; leave it out",
        "test_model_config": "the real model is quantized; leave it out",
    },
    "data_config": {
        **DataConfig.REFUSED,
        "post_process_data_config": "metrics are computed from logits; leave it out",
        "dataloader_config": BATCHES,
        "components": "write its parts as load_dataset_config and pre_process_data_config",
    },
    "load_dataset_config": {
        **LoadDatasetConfig.REFUSED,
        "trust_remote_code": "code of a data set is never run; leave it out",
        "col_filters": "store the filtered text as the data set",
        "streaming": "files are read whole; leave it out",
    },
    "pre_process_data_config": {
        **PreProcessDataConfig.REFUSED,
        "pad_to_max_len": NO_PADDING,
        "padding_side": NO_PADDING,
        "use_attention_mask": NO_PADDING,
        "drop_short_sequences": "write strategy: join, which has no short sequences; leave it out",
        "stride": "sliding windows are not available; write strategy: join",
        "random_seed": "sequences are taken in text order; leave it out",
        "random_retries": "sequences are taken in text order; leave it out",
        "processing_batch_size": BATCHES,
        "batch_size": BATCHES,
        "message_col": "store the finished text in the data set and name its column in text_cols",
        "input_cols": "name the text column in text_cols",
        "model_name": "the tokenizer is the input model's; leave it out",
        "tokenizer_name": "the tokenizer is the input model's; leave it out",
        "trust_remote_code": "code of a model is never run; leave it out",
        "task": "it is input_model.task; leave it out",
    },
    "pass": {
        **PassBase.REFUSED,
        "disable_search": "there is no search in this release; leave it out",
        "output_name": "the artifact has one layout; leave it out",
        "clean_run_cache": CACHE,
    },
    "evaluator": {
        "type": "an evaluator here is a list of metrics; write metrics",
        "tasks": "lm-eval tasks are not available in this release; write metrics",
    },
    "metric": {
        "user_config": "metrics never run code from a manifest; leave it out",
        "backend": "metrics are computed by the engine; leave it out",
    },
    "sub_type": {
        "priority": "it ranks search results, and there is no search in this release; leave it out",
        "metric_config": "metrics here have no options; leave it out",
    },
}
