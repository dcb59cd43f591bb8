"""Olive run configs become manifests, or every field in the way is named."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantization_api.failures import ExitCode, QuantizationError
from quantization_api.spec import QuantizationJobSpec
from quantizer.cli import parser
from quantizer.cli.olive.run_config import import_config, load_config

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).resolve().parents[4] / "deploy/examples"
CONFIG: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "s3://models/llama"},
    "data_configs": [
        {
            "name": "train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "s3://datasets/train.txt"},
            "pre_process_data_config": {"max_seq_len": 512, "max_samples": 128},
        }
    ],
    "passes": {"quantize": {"type": "GptqQuantizer", "data_config": "train"}},
}


def config(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CONFIG), **changes}


def imported(document: dict[str, Any], **options: Any) -> dict[str, Any]:
    manifest = import_config(document, name="job", output_uri="s3://artifacts/job", **options).manifest
    QuantizationJobSpec.model_validate(manifest["spec"])
    workflow = manifest["spec"]["workflow"]
    assert isinstance(workflow, dict)
    return workflow


def problems(document: dict[str, Any], **options: Any) -> str:
    with pytest.raises(QuantizationError) as caught:
        import_config(document, **{"name": "job", "output_uri": "s3://artifacts/job", **options})
    assert caught.value.exit_code == ExitCode.INVALID_WORKFLOW
    return caught.value.message


def test_maps_become_lists_with_names() -> None:
    metric = {"name": "size", "type": "size_on_disk", "sub_types": [{"name": "bytes"}]}
    workflow = imported(config(evaluators={"q": {"metrics": [metric]}}, evaluator="q"))
    assert workflow["passes"] == [{"name": "quantize", "type": "GptqQuantizer", "data_config": "train"}]
    assert workflow["evaluators"] == [{"name": "q", "metrics": [{"name": "size", "type": "size_on_disk"}]}]
    assert workflow["evaluator"] == "q"


def test_the_file_itself_is_not_changed() -> None:
    document = config()
    imported(document)
    assert document == CONFIG


def test_the_order_of_the_passes_is_kept() -> None:
    passes = {
        "z": {"type": "GptqQuantizer", "data_config": "train"},
        "a": {"type": "ModelBuilder", "precision": "int4"},
    }
    assert [item["name"] for item in imported(config(passes=passes))["passes"]] == ["z", "a"]
    assert "put one of them before it" in problems(config(passes=passes, pass_flows=[["a", "z"]]))


def test_nested_config_and_params_are_folded() -> None:
    document = config(
        input_model={"type": "hfmodel", "config": {"model_path": "s3://models/llama"}},
        passes={"q": {"type": "gptqquantizer", "config": {"data_config": "train", "bits": 3}}},
    )
    document["data_configs"][0]["load_dataset_config"] = {"params": {"data_name": "s3://datasets/t.txt"}}
    workflow = imported(document)
    assert workflow["input_model"] == {"type": "HfModel", "model_path": "s3://models/llama"}
    assert workflow["passes"][0] == {
        "name": "q",
        "type": "GptqQuantizer",
        "data_config": "train",
        "bits": 3,
    }
    assert workflow["data_configs"][0]["load_dataset_config"] == {"data_name": "s3://datasets/t.txt"}


DOCUMENTED: list[dict[str, Any]] = [
    {"type": "GptqQuantizer", "data_config": "train"},
    {"type": "AutoAWQQuantizer", "w_bit": 4},
    {"type": "QuaRot", "w_rtn": True, "rotate": True, "w_bits": 4, "a_bits": 4, "k_bits": 4, "v_bits": 4},
]


@pytest.mark.parametrize("item", DOCUMENTED, ids=lambda item: item["type"])
def test_the_documented_configurations_are_imported_as_they_stand(item: dict[str, Any]) -> None:
    assert imported(config(passes={"q": item}))["passes"] == [{"name": "q", **item}]


def test_two_passes_come_in_the_order_of_the_flow() -> None:
    passes = {
        "onnx": {"type": "ModelBuilder", "precision": "int4"},
        "awq": {"type": "AutoAWQQuantizer", "w_bit": 4},
    }
    workflow = imported(config(passes=passes, pass_flows=[["awq", "onnx"]]))
    assert [item["name"] for item in workflow["passes"]] == ["awq", "onnx"]
    assert "put one of them before it" in problems(config(passes={"onnx": passes["onnx"]}))


def test_a_rotation_is_imported_with_the_gptq_after_it_and_their_graph() -> None:
    passes = {"rotate": {"type": "QuaRot"}, **CONFIG["passes"], "graph": {"type": "ModelBuilder"}}
    passes["quantize"] = {**passes["quantize"], "group_size": 32}
    workflow = imported(config(passes=passes))
    assert [item["type"] for item in workflow["passes"]] == ["QuaRot", "GptqQuantizer", "ModelBuilder"]


def test_engine_fields_may_be_nested() -> None:
    metrics = [{"name": "size", "type": "size_on_disk"}]
    workflow = imported(config(evaluators={"q": {"metrics": metrics}}, engine={"evaluator": "q"}))
    assert workflow["evaluator"] == "q"


def test_latency_is_that_of_the_prefill_as_often_as_it_takes() -> None:
    goal = {"type": "percent-min-improvement", "value": 5}
    metric = {
        "name": "t",
        "type": "latency",
        "data_config": "train",
        "user_config": {"io_bind": True},
        "sub_types": [
            {"name": "p50", "goal": goal, "metric_config": {"warmup_num": 5, "repeat_test_num": 9}}
        ],
    }
    workflow = imported(config(evaluators={"q": {"metrics": [metric]}}, evaluator="q"))
    assert workflow["evaluators"][0]["metrics"] == [
        {"name": "t", "type": "latency", "phase": "prefill", "goal": goal}
    ]


def test_an_lm_evaluator_is_a_metric_of_its_tasks() -> None:
    given = {
        "type": "LMEvaluator",
        "tasks": ["arc", "boolq"],
        "tasks_from": "/tasks",
        "limit": 50,
        "batch_size": 4,
    }
    workflow = imported(config(evaluators={"q": given}, evaluator="q"))
    assert workflow["evaluators"][0]["metrics"] == [
        {
            "name": "accuracy",
            "type": "accuracy",
            "tasks": ["arc", "boolq"],
            "tasks_from": "/tasks",
            "limit": 50,
        }
    ]


def test_perplexity_comes_from_its_sub_type_with_its_goal() -> None:
    goal = {"type": "percent-max-degradation", "value": 5}
    metric = {
        "name": "ppl",
        "type": "accuracy",
        "data_config": "train",
        "sub_types": [{"name": "perplexity", "higher_is_better": False, "goal": goal}],
    }
    workflow = imported(config(evaluators={"q": {"metrics": [metric]}}, evaluator="q"))
    assert workflow["evaluators"][0]["metrics"] == [
        {"name": "ppl", "type": "perplexity", "data_config": "train", "goal": goal}
    ]


def test_default_value_is_the_default() -> None:
    document = config(
        passes={"q": {"type": "GptqQuantizer", "data_config": "train", "bits": "DEFAULT_VALUE"}}
    )
    assert "bits" not in imported(document)["passes"][0]


def test_hub_data_are_replaced_by_data_in_storage() -> None:
    document = config()
    document["data_configs"][0]["load_dataset_config"] = {
        "data_name": "wikitext",
        "subset": "wikitext-2-raw-v1",
        "split": "train",
    }
    assert "--data train=URI" in problems(document)
    load = imported(document, data_names={"train": "s3://datasets/wikitext-2"})["data_configs"][0]
    assert load["load_dataset_config"] == {"data_name": "s3://datasets/wikitext-2", "split": "train"}


def test_a_local_file_loader_names_its_file() -> None:
    document = config()
    document["data_configs"][0]["load_dataset_config"] = {"data_name": "json", "data_files": "/data/a.jsonl"}
    load = imported(document)["data_configs"][0]["load_dataset_config"]
    assert load == {"data_name": "/data/a.jsonl"}


def timed(metric: dict[str, Any]) -> dict[str, Any]:
    """An evaluator of one metric."""
    return {"evaluators": {"e": {"metrics": [metric]}}, "evaluator": "e"}


GPTQ: dict[str, Any] = {"type": "GptqQuantizer", "data_config": "train"}
SEARCHED: dict[str, Any] = {
    "passes": {"q": {**GPTQ, "bits": {"type": "categorical", "support": [4, 8]}, "group_size": 32}}
}
EVALUATED: dict[str, Any] = {
    "evaluators": {
        "e": {
            "metrics": [
                {
                    "name": "ppl",
                    "type": "accuracy",
                    "data_config": "train",
                    "sub_types": [{"name": "perplexity"}],
                }
            ]
        }
    },
    "evaluator": "e",
}


def test_a_search_comes_along_with_its_values() -> None:
    values = {
        "bits": {"type": "categorical", "support": [4, 8]},
        "damp_percent": {"type": "categorical", "support": [0.01, 0.1]},
        "desc_act": {"type": "categorical", "support": [True, False]},
        "sym": {"type": "categorical", "support": [True]},
    }
    document = {
        **config(passes={"q": {**GPTQ, **values}}),
        **EVALUATED,
        "search_strategy": {
            "execution_order": "pass-by-pass",
            "search_algorithm": "random",
            "num_samples": 5,
            "seed": 3,
        },
    }
    workflow = imported(document)
    assert workflow["passes"][0]["sym"] is True
    assert workflow["search_strategy"] == {
        "execution_order": "pass-by-pass",
        "sampler": "random",
        "max_samples": 5,
        "seed": 3,
        "search_space": [
            {"pass": "q", "parameter": "bits", "values": [4, 8]},
            {"pass": "q", "parameter": "damp_percent", "values": ["0.01", "0.1"]},
            {"pass": "q", "parameter": "desc_act", "values": ["true", "false"]},
        ],
    }


def test_olives_name_of_a_searched_parameter_becomes_ours() -> None:
    rtn = {"type": "Rtn", "sym": {"type": "categorical", "support": [True, False]}}
    document = {**config(passes={"r": rtn}), **EVALUATED, "search_strategy": True}
    assert imported(document)["search_strategy"] == {
        "search_space": [{"pass": "r", "parameter": "w_asym", "values": ["false", "true"]}]
    }


def test_alternatives_become_chains() -> None:
    document = {
        **config(passes={"q": [GPTQ, {"type": "AutoAWQQuantizer", "data_config": "train"}]}),
        **EVALUATED,
        "search_strategy": {"sampler": {"type": "TPE", "seed": 4}},
    }
    workflow = imported(document)
    assert [item["name"] for item in workflow["passes"]] == ["q-1", "q-2"]
    assert workflow["search_strategy"] == {"sampler": "tpe", "seed": 4, "chains": [["q-1"], ["q-2"]]}


def test_priorities_become_the_order_of_the_metrics() -> None:
    metrics = [
        {"name": "size", "type": "size_on_disk", "sub_types": [{"name": "bytes", "priority": 2}]},
        {**EVALUATED["evaluators"]["e"]["metrics"][0], "sub_types": [{"name": "perplexity", "priority": 1}]},
    ]
    workflow = imported(config(evaluators={"e": {"metrics": metrics}}, evaluator="e"))
    assert [metric["name"] for metric in workflow["evaluators"][0]["metrics"]] == ["ppl", "size"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("sampler", {**SEARCHED, "search_strategy": {"sampler": "optuna"}}, "optuna is not a sampler"),
    ("time", {**SEARCHED, "search_strategy": {"max_time": 60}}, "a search ends after max_samples points"),
    ("values without a search", SEARCHED, "search_strategy: a search needs a search_strategy"),
    (
        "conditional values",
        {"passes": {"q": {**GPTQ, "bits": {"type": "conditional", "support": [4]}}}, "search_strategy": True},
        'passes.q.bits: only {"type": "categorical", "support": [...]}',
    ),
    ("typo", {"pases": {}}, "pases is not a field of a run config; did you mean passes?"),
    (
        "hub model",
        {"input_model": {"type": "HfModel", "model_path": "org/model"}},
        "nothing is downloaded from a hub",
    ),
    (
        "model type",
        {"input_model": {"type": "ONNXModel", "model_path": "s3://models/x"}},
        "input_model.type: ONNXModel is not available",
    ),
    (
        "load_kwargs",
        {"input_model": {"type": "HfModel", "model_path": "s3://models/x", "load_kwargs": {"a": 1}}},
        "input_model.load_kwargs.a: a is not a field of load_kwargs",
    ),
    ("no passes", {"passes": {}}, "passes: there is no pass to run"),
    (
        "alternatives",
        {"passes": {"q": [GPTQ, {"type": "AutoAWQQuantizer"}]}},
        "search_strategy: a search needs a search_strategy",
    ),
    (
        "searchable",
        {"passes": {"q": {"type": "GptqQuantizer", "data_config": "train", "bits": "SEARCHABLE_VALUES"}}},
        'passes.q.bits: Olive\'s own list of values is not taken over; write {"type": "categorical"',
    ),
    (
        "w_bit",
        {"passes": {"q": {"type": "GptqQuantizer", "data_config": "train", "w_bit": 4}}},
        "w_bit is not a parameter of GptqQuantizer",
    ),
    (
        "lm-eval",
        {"evaluators": {"e": {"type": "LMEvaluator", "tasks": ["x"]}}, "evaluator": "e"},
        "evaluators.e: tasks of lm-eval are read from files, not downloaded; add tasks_from",
    ),
    (
        "higher is better",
        {
            "evaluators": {
                "e": {
                    "metrics": [
                        {
                            "name": "ppl",
                            "type": "accuracy",
                            "data_config": "train",
                            "sub_types": [{"name": "perplexity", "higher_is_better": True}],
                        }
                    ]
                }
            },
            "evaluator": "e",
        },
        "a lower perplexity is better",
    ),
    (
        "mean latency",
        timed({"name": "t", "type": "latency", "sub_types": [{"name": "avg"}]}),
        "avg is not available, the median is measured; write p50",
    ),
    (
        "calls per second",
        timed(
            {
                "name": "t",
                "type": "throughput",
                "sub_types": [{"name": "p50", "goal": {"type": "threshold", "value": 3}}],
            }
        ),
        "throughput is in tokens per second here, in calls per second in Olive",
    ),
    (
        "code that measures",
        timed({"name": "t", "type": "latency", "user_config": {"script_dir": "x", "io_bind": True}}),
        "a metric runs no code from a manifest",
    ),
    (
        "unknown reference",
        {"evaluator": "nothing"},
        "evaluator: it names an evaluator that is not in evaluators",
    ),
]


@pytest.mark.parametrize(("name", "change", "sentence"), REFUSED, ids=[item[0] for item in REFUSED])
def test_what_has_no_meaning_here_is_refused_by_name(
    name: str, change: dict[str, Any], sentence: str
) -> None:
    assert sentence in problems(config(**change))


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("load_dataset_config", "subset"),
        ("load_dataset_config", "col_filters"),
        ("pre_process_data_config", "message_col"),
        ("pre_process_data_config", "chat_template"),
        ("pre_process_data_config", "no_such_option"),
    ],
)
def test_options_of_a_data_config_are_refused_by_name(part: str, field: str) -> None:
    document = config()
    document["data_configs"][0][part][field] = "x"
    assert field in problems(document)


def test_all_problems_come_in_one_message() -> None:
    message = problems(config(systems={"a": {}}, cache_dir="x", host="y"), output_uri=None)
    for word in ("systems", "cache_dir", "host", "--output-uri"):
        assert word in message


def test_a_field_is_left_out_when_the_user_says_so() -> None:
    document = config(systems={"a": {}}, cache_dir="x")
    assert imported(document, drop=["systems", "cache_dir"])["passes"]


def test_a_key_given_twice_is_no_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"passes": {}, "passes": {}}')
    with pytest.raises(QuantizationError, match="appears twice"):
        load_config(path)


def test_the_example_becomes_a_manifest_that_can_be_run(tmp_path: Path) -> None:
    target = tmp_path / "job.yaml"
    arguments = [
        "import",
        str(EXAMPLES / "olive-gptq.json"),
        "--output-uri",
        "s3://artifacts/x",
        "-o",
        str(target),
    ]
    assert parser.main(arguments) == 0
    manifest = yaml.safe_load(target.read_text())
    assert manifest["kind"] == "QuantizationJob"
    assert manifest["metadata"] == {"name": "olive-gptq"}
    spec = QuantizationJobSpec.model_validate(manifest["spec"])
    asked = json.loads((EXAMPLES / "olive-gptq.json").read_text())["passes"]["quantize"]
    assert spec.workflow.passes[0].model_dump(include=set(asked)) == asked


def test_a_refusal_on_the_command_line_is_78_and_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config(builds={})))
    assert parser.main(["import", str(path), "--output-uri", "s3://artifacts/x"]) == ExitCode.INVALID_WORKFLOW
    captured = capsys.readouterr()
    assert "builds" in captured.err
    assert captured.out == ""
