"""Models, data, evaluators and metrics that must be refused."""

from typing import Any

from tests.support.invalid import Invalid, bad
from tests.support.manifests import NOT_RUN, PREPROCESS, REMOVED


def metric(name: str, server: str, client: str | None = "", **fields: Any) -> Invalid:
    """A metric that must be refused."""
    return bad(name, "workflow.evaluators.0.metrics.0", {"name": "m", **fields}, server, client)


INVALID_WORKFLOWS: tuple[Invalid, ...] = (
    bad(
        "no input model",
        "workflow.input_model",
        REMOVED,
        "spec.workflow.input_model: Required",
        "Field required",
    ),
    bad(
        "hub id",
        "workflow.input_model.model_path",
        "meta-llama/Llama-2-7b-hf",
        "model_path must be s3://BUCKET/KEY",
    ),
    bad(
        "bucket only", "workflow.input_model.model_path", "s3://models", "model_path must be s3://BUCKET/KEY"
    ),
    bad(
        "another model type",
        "workflow.input_model.type",
        "ONNXModel",
        "Unsupported value",
        "must be 'HfModel'",
    ),
    bad(
        "load_kwargs", "workflow.input_model.load_kwargs", {"torch_dtype": "float16"}, "read tensor by tensor"
    ),
    bad(
        "data of a hub",
        "workflow.data_configs.0.load_dataset_config.data_name",
        "wikitext",
        "data_name must be s3://",
    ),
    bad(
        "subset",
        "workflow.data_configs.0.load_dataset_config.subset",
        "wikitext-2-raw-v1",
        "a subset exists only on a hub",
    ),
    bad(
        "sliding window",
        f"{PREPROCESS}.strategy",
        "join-sliding-window",
        "Unsupported value",
        "must be 'join'",
    ),
    bad("sequence of 4", f"{PREPROCESS}.max_seq_len", 4, "greater than or equal to 8"),
    bad("no samples", f"{PREPROCESS}.max_samples", 0, "greater than or equal to 1"),
    bad("chat template", f"{PREPROCESS}.chat_template", "x", "write the finished text into the data set"),
    bad("formatting code", f"{PREPROCESS}.text_formatting_func", "f", NOT_RUN),
    bad(
        "data configs of one name",
        "workflow.data_configs.1.name",
        "train",
        'Duplicate value: {"name":"train"}',
        "two data_configs are named train",
    ),
    bad(
        "evaluator of nothing",
        "workflow.evaluator",
        "speed",
        "evaluator names an evaluator that is not in evaluators (quality)",
    ),
    Invalid(
        "evaluator without evaluators",
        (("workflow.evaluators", REMOVED),),
        "evaluator names an evaluator that is not in evaluators (none)",
    ),
    Invalid(
        "data of no list",
        (
            ("workflow.data_configs", REMOVED),
            ("workflow.evaluators", REMOVED),
            ("workflow.evaluator", REMOVED),
        ),
        "a pass names a data_config that is not in data_configs (none)",
    ),
    bad(
        "no evaluator chosen",
        "workflow.evaluator",
        REMOVED,
        "evaluator names none of them; write evaluator: NAME",
    ),
    bad(
        "metric data of nothing",
        "workflow.evaluators.0.metrics.0.data_config",
        "validation",
        "a metric names a data_config that is not in data_configs (train, test)",
    ),
    bad(
        "metric without data",
        "workflow.evaluators.0.metrics.0.data_config",
        REMOVED,
        "perplexity needs a data_config",
    ),
    bad(
        "speed on a text",
        "workflow.evaluators.0.metrics.0.type",
        "latency",
        "latency is measured without data_config; leave data_config out",
    ),
    bad(
        "a phase of perplexity",
        "workflow.evaluators.0.metrics.0.phase",
        "decode",
        "software belong to latency, throughput and peak_memory",
    ),
    metric("the phase of memory", "leave phase out", type="peak_memory", phase="prefill"),
    metric(
        "new tokens of the prefill",
        "leave new_tokens out",
        type="latency",
        phase="prefill",
        new_tokens=8,
    ),
    metric("one new token", "greater than or equal to 2", type="throughput", new_tokens=1),
    metric("no prompt", "greater than or equal to 1", type="latency", prompt_tokens=0),
    metric("an unknown server", "Unsupported value", "must be 'auto'", type="latency", software="tgi"),
    bad(
        "size with data",
        "workflow.evaluators.0.metrics.0.type",
        "size_on_disk",
        "size_on_disk is measured without data_config; leave data_config out",
    ),
    bad(
        "accuracy without tasks",
        "workflow.evaluators.0.metrics.0",
        {"name": "acc", "type": "accuracy", "tasks_from": "s3://tasks/stories"},
        "accuracy needs tasks to measure on",
    ),
    bad(
        "accuracy without files",
        "workflow.evaluators.0.metrics.0",
        {"name": "acc", "type": "accuracy", "tasks": ["stories"]},
        "accuracy needs tasks_from to measure on",
    ),
    bad(
        "tasks of a hub",
        "workflow.evaluators.0.metrics.0",
        {"name": "acc", "type": "accuracy", "tasks": ["arc"], "tasks_from": "allenai/ai2_arc"},
        "tasks_from must be s3://BUCKET/KEY, file:///PATH or an absolute path",
    ),
    bad(
        "perplexity of some documents",
        "workflow.evaluators.0.metrics.0.limit",
        10,
        "perplexity is measured without limit; leave limit out",
    ),
    bad(
        "degradation of top-1",
        "workflow.evaluators.0.metrics.1",
        {
            "name": "same",
            "type": "top1_agreement",
            "data_config": "test",
            "goal": {"type": "max-degradation", "value": 1},
        },
        "top1_agreement already compares with the input model",
    ),
    bad(
        "degradation of KL",
        "workflow.evaluators.0.metrics.1.goal",
        {"type": "max-degradation", "value": 1},
        "kl_divergence already compares with the input model",
    ),
    bad(
        "unknown goal",
        "workflow.evaluators.0.metrics.0.goal",
        {"type": "best", "value": 1},
        "Unsupported value",
        "must be 'threshold'",
    ),
    bad(
        "systems",
        "workflow.systems",
        {"local": {"type": "LocalSystem"}},
        "spec.template says where a job runs",
    ),
    bad("host", "workflow.host", "local", "spec.template says where a job runs"),
    bad("target", "workflow.target", "local", "spec.template says where a job runs"),
    bad("cache folder", "workflow.cache_dir", "cache", "results are stored at spec.output.uri"),
    bad("output folder", "workflow.output_dir", "out", "write spec.output.uri"),
    bad("engine", "workflow.engine", {}, "write its field evaluator directly"),
    bad("script", "workflow.user_script", "x.py", NOT_RUN),
)
"""Of the rest of the workflow."""
