"""Run configs as people have them: the rest is imported, and one message names all that does not come along."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.support.olive_count import OWN_CONFIGS

from quantization_api.failures import ExitCode
from quantization_api.spec import QuantizationJobSpec
from quantizer.cli import parser

pytestmark = pytest.mark.unit

PLACES = [
    "--output-uri",
    "s3://artifacts/x",
    "--model-path",
    "s3://models/x",
    "--data",
    "train=s3://texts/x.txt",
]
GPTQ = {"type": "GptqQuantizer", "data_config": "train"}
PYDANTIC = (
    "Input should",
    "input should",
    "Extra inputs",
    "alid integer",
    "valid string",
    "validation error",
    "pydantic",
)


class Importer:
    """Runs `quantizer import` on a run config."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, config: str | dict[str, Any], *options: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error; a name is that of a file in OWN_CONFIGS."""
        path = OWN_CONFIGS / f"{config}.json" if isinstance(config, str) else self.folder / "config.json"
        if not isinstance(config, str):
            path.write_text(json.dumps(config))
        code = parser.main(["import", str(path), *options])
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def workflow(self, config: str | dict[str, Any], *options: str) -> dict[str, Any]:
        """The workflow that the API server would accept."""
        code, out, err = self(config, *options)
        assert code == ExitCode.DONE, err
        spec = yaml.safe_load(out)["spec"]
        QuantizationJobSpec.model_validate(spec)
        workflow = spec["workflow"]
        assert isinstance(workflow, dict)
        return workflow


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(tmp_path, capsys)


def config(**changes: Any) -> dict[str, Any]:
    return {
        "input_model": {"type": "HfModel", "model_path": "s3://models/x"},
        "data_configs": [{"name": "train", "load_dataset_config": {"data_name": "s3://texts/x.txt"}}],
        "passes": {"q": {"type": "GptqQuantizer", "data_config": "train"}},
        **changes,
    }


def offered(err: str) -> list[str]:
    """The options of the last line of a refusal, with places for the URIs."""
    last = err.splitlines()[-1]
    assert last.startswith(("Add: ", "To import the rest, add: ")), err
    options = shlex.split(last.partition("dd: ")[2])
    return [option.replace("URI", "s3://somewhere/x.txt") for option in options]


def test_what_computes_nothing_here_is_left_out_and_listed(run: Importer) -> None:
    code, out, err = run("everyday", *PLACES)
    assert code == ExitCode.DONE, err
    for path in (
        "systems",
        "host",
        "target",
        "log_severity_level",
        "cache_dir",
        "output_dir",
        "clean_cache",
        "no_artifacts",
        "evaluate_input_model",
        "input_model.load_kwargs.torch_dtype",
        "passes.b.int4_op_types_to_quantize",
        "data_configs.activations",
    ):
        assert path in err
        assert path in out.partition("apiVersion")[0]
    assert "trust_remote_code" not in err  # false asks for nothing
    workflow = yaml.safe_load(out)["spec"]["workflow"]
    assert workflow["passes"] == [
        {"name": "q", "type": "GptqQuantizer", "sym": True, "group_size": 32, "data_config": "train"},
        {"name": "b", "type": "ModelBuilder", "precision": "int4"},
    ]
    assert [item["name"] for item in workflow["data_configs"]] == ["train"]


def test_passes_that_only_give_the_finished_graph_another_form_are_listed_apart(run: Importer) -> None:
    _, out, err = run("everyday", *PLACES)
    listed = err[err.index("Not part of the job") : err.index("Left out")]
    assert "passes.g: GraphSurgeries" in listed
    assert "passes.s: StaticLLM" in listed
    assert "# Not part of the job: passes.g, passes.s" in out


def test_strict_refuses_what_is_left_out(run: Importer) -> None:
    code, out, err = run("everyday", *PLACES, "--strict")
    assert (code, out) == (ExitCode.INVALID_WORKFLOW, "")
    assert "--strict" in err
    assert run("everyday", *PLACES, "--strict", *offered(err))[0] == ExitCode.DONE
    assert run(config(), "--output-uri", "s3://artifacts/x", "--strict")[0] == ExitCode.DONE


def test_one_message_has_everything(run: Importer) -> None:
    code, out, err = run("mixed_bits")
    assert (code, out) == (ExitCode.INVALID_WORKFLOW, "")
    for part in (
        "passes.s: SelectiveMixedPrecision gives some linears more bits than others",
        "passes.g.overrides: all linears of a pass have the same bits and groups",
        "passes.r: Rtn rounds what the pass before it left",
        "evaluators.e: tasks of lm-eval are read from files",
        "--output-uri URI: ",
        "--model-path URI: input_model.model_path is someone/a-model",
        "--data calibration=URI: passes.g has no data_config",
        "systems, host, target: spec.template says where a job runs",
    ):
        assert part in err
    assert err.count("  systems") == 1


@pytest.mark.parametrize(
    "name", ["everyday", "mixed_bits", "rotation", "gptqmodel", "gptqmodel_more", "rtn", "awq"]
)
def test_the_last_line_of_a_refusal_is_what_lets_the_rest_be_imported(name: str, run: Importer) -> None:
    code, _, err = run(name)
    assert code == ExitCode.INVALID_WORKFLOW
    assert run.workflow(name, *offered(err))["passes"]


def test_text_that_olive_chooses_itself_must_be_given_and_is_prepared_as_olive_does(run: Importer) -> None:
    workflow = run.workflow("mixed_bits", *offered(run("mixed_bits")[2]))
    assert workflow["data_configs"] == [
        {
            "name": "calibration",
            "load_dataset_config": {"data_name": "s3://somewhere/x.txt"},
            "pre_process_data_config": {
                "strategy": "join",
                "max_seq_len": 2048,
                "max_samples": 128,
                "add_special_tokens": False,
            },
        }
    ]
    assert workflow["passes"][0]["data_config"] == "calibration"


NEWER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"type": "Gptq", "bits": 8, "sym": True, "lm_head": False},
        {"type": "GptqQuantizer", "bits": 8, "sym": True},
    ),
    ({"type": "gptq", "group_size": -1}, {"type": "GptqQuantizer", "group_size": -1, "desc_act": True}),
    (
        {"type": "gptq", "group_size": -1, "desc_act": False},
        {"type": "GptqQuantizer", "group_size": -1, "desc_act": False},
    ),
    (
        {"type": "GptqModel", "bits": 4, "device": "cuda"},
        {
            "type": "GptqQuantizer",
            "bits": 4,
            "group_size": -1,
            "damp_percent": 0.05,
            "true_sequential": True,
            "desc_act": True,
            "sym": True,
        },
    ),
    ({"type": "QuaRot", "rotate_mode": "hadamard", "seed": 7}, {"type": "QuaRot", "rotation_seed": 7}),
    ({"type": "Quarot"}, {"type": "QuaRot"}),
    ({"type": "AutoAWQQuantizer", "bits": 4}, {"type": "AutoAWQQuantizer", "bits": 4}),
    (
        {"type": "Rtn", "bits": 8, "group_size": 64, "sym": True},
        {"type": "QuaRot", "rotate": False, "w_rtn": True, "w_bits": 8, "w_groupsize": 64, "w_asym": False},
    ),
    (
        {"type": "rtn"},
        {"type": "QuaRot", "rotate": False, "w_rtn": True, "w_bits": 4, "w_groupsize": 128, "w_asym": True},
    ),
]


@pytest.mark.parametrize(("theirs", "ours"), NEWER, ids=[json.dumps(theirs) for theirs, _ in NEWER])
def test_newer_names_become_ours_with_their_parameters_and_defaults(
    theirs: dict[str, Any], ours: dict[str, Any], run: Importer
) -> None:
    gptq = {"data_config": "train"} if ours["type"] == "GptqQuantizer" else {}
    workflow = run.workflow(config(passes={"q": {**theirs, **gptq}}), "--output-uri", "s3://artifacts/x")
    assert workflow["passes"] == [{"name": "q", **ours, **gptq}]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "Gptq", "lm_head": True}, "passes.q.lm_head: the head keeps its own data type"),
    (
        {"type": "Gptq", "modules_to_not_convert": ["x"]},
        "passes.q.modules_to_not_convert: only AutoAWQQuantizer",
    ),
    ({"type": "GptqModel", "dynamic": {"+:x": {"bits": 8}}}, "passes.q.dynamic: all linears of a pass"),
    ({"type": "GptqModel", "rotation": "hadamard"}, "passes.q.rotation: rotations are a pass of their own"),
    (
        {"type": "QuaRot", "rotate_mode": "random"},
        "passes.q.rotate_mode: the rotation is a random Hadamard matrix",
    ),
    ({"type": "Rtn", "embeds": True}, "passes.q.embeds: embeddings keep their own data type"),
    ({"type": "KQuant"}, "passes.q: KQuant is not available; write GptqQuantizer"),
    ({"type": "SpinQuant"}, "passes.q: SpinQuant trains its rotations"),
    ({"type": "GptqQuantiser"}, "passes.q: GptqQuantiser is not a pass; did you mean GptqQuantizer?"),
    (
        {"type": "GraphSurgeries"},
        "GraphSurgeries changes a finished ONNX graph, and no ModelBuilder before it makes one",
    ),
    (
        {"type": "ModelBuilder", "int4_op_types_to_quantize": ["Gather"]},
        "passes.q.int4_op_types_to_quantize: the pass before it rounds the linears",
    ),
]


@pytest.mark.parametrize(("theirs", "sentence"), REFUSED, ids=[json.dumps(theirs) for theirs, _ in REFUSED])
def test_what_would_change_the_result_is_refused_with_the_reason(
    theirs: dict[str, Any], sentence: str, run: Importer
) -> None:
    code, _, err = run(config(passes={"q": theirs}), "--output-uri", "s3://artifacts/x")
    assert code == ExitCode.INVALID_WORKFLOW
    assert sentence in err


def test_every_parameter_without_an_equivalent_has_its_line(run: Importer) -> None:
    _, _, err = run("gptqmodel_more", *PLACES)
    for parameter in ("lm_head", "rotation", "dynamic"):
        assert f"  passes.g.{parameter}: " in err


def test_every_rule_that_is_broken_has_its_line(run: Importer) -> None:
    passes = {
        "q": {"type": "GptqQuantizer", "data_config": "train", "bits": 5, "group_size": 0},
        "m": {"type": "ModelBuilder", "precision": "int4", "int4_block_size": 64, "int4_accuracy_level": 2},
    }
    metric = {"name": "size", "type": "size_on_disk", "data_config": "train"}
    evaluators = {"e": {"metrics": [metric]}}
    _, _, err = run(config(passes=passes, evaluators=evaluators, evaluator="e"), "--output-uri", "nowhere")
    for sentence in (
        "passes.q: bits must be 2, 3, 4 or 8",
        "passes.q: group_size is -1",
        "passes.m: int4_accuracy_level 2 and 3 are the same as 1",
        "passes: ModelBuilder takes groups of 16, 32, 64, 128 or 256 inputs",
        "evaluators.e.metrics[0].sub_types[0]: size_on_disk is measured without data",
        "--output-uri: output.uri must be",
    ):
        assert sentence in err


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("number", {"bits": "four"}, "passes.q.bits: must be a whole number"),
    ("switch", {"sym": "perhaps"}, "passes.q.sym: must be true or false"),
    ("choice", {"checkpoint_format": "gguf"}, "passes.q.checkpoint_format: must be 'gptq'"),
    ("bound", {"damp_percent": 2}, "passes.q.damp_percent: must be less than 1"),
    ("list", {"outside_layer_modules": 3}, "passes.q.outside_layer_modules: must be a list"),
    ("text", {"layers_block_name": 3}, "passes.q.layers_block_name: must be text"),
]


@pytest.mark.parametrize(("name", "change", "sentence"), WRONG, ids=[item[0] for item in WRONG])
def test_a_wrong_value_is_named_where_it_is_in_the_file_and_in_our_own_words(
    name: str, change: dict[str, Any], sentence: str, run: Importer
) -> None:
    passes = {"q": {"type": "GptqQuantizer", "data_config": "train", **change}}
    _, _, err = run(config(passes=passes), "--output-uri", "s3://artifacts/x")
    assert sentence in err
    assert not any(word in err for word in PYDANTIC)


def test_wrong_values_of_data_configs_and_metrics_have_our_words_too(run: Importer) -> None:
    data = [
        {
            "name": "train",
            "type": "DummyDataContainer",
            "load_dataset_config": {"data_name": "s3://texts/x.txt"},
            "pre_process_data_config": {
                "strategy": "join-random",
                "max_seq_len": "long",
                "text_cols": ["a", "b"],
            },
        }
    ]
    metric = {"name": "m", "type": "speed", "goal": {"type": "best", "value": "x"}}
    document = config(data_configs=data, evaluators={"e": {"metrics": [metric]}}, evaluator="e")
    _, _, err = run(document, "--output-uri", "s3://artifacts/x")
    for where in (
        "data_configs.train.type: must be 'HuggingfaceContainer'",
        "data_configs.train.pre_process_data_config.strategy: sequences are taken in text order",
        "data_configs.train.pre_process_data_config.max_seq_len: must be a whole number",
        "data_configs.train.pre_process_data_config.text_cols: one column has the text",
        "evaluators.e.metrics[0].sub_types[0].type: must be 'perplexity'",
        "evaluators.e.metrics[0].sub_types[0].goal.type: must be 'threshold'",
    ):
        assert where in err
    assert not any(word in err for word in PYDANTIC)


def test_which_passes_may_follow_which_is_the_contracts_decision(run: Importer) -> None:
    passes = [{"type": "QuaRot", "rotation_seed": 7}, {"type": "GptqQuantizer", "data_config": "train"}]
    workflow = {**config(), "passes": passes}
    try:
        QuantizationJobSpec.model_validate({"workflow": workflow, "output": {"uri": "s3://artifacts/x"}})
        taken = True
    except ValidationError:
        taken = False
    code, _, err = run("rotation_then_gptq", *PLACES)
    assert (code == ExitCode.DONE) is taken, err
    assert taken or "  passes: " in err


def test_a_builder_without_a_pass_that_quantizes_is_refused_once_and_for_all_reasons(run: Importer) -> None:
    _, _, err = run("builder_alone", *PLACES[:4])
    for sentence in (
        "input_model.task: text-classification is not available; if the model generates text",
        "passes.m: WebGpuExecutionProvider, which systems asks for, is not available: a graph is built for cpu or cuda",
        "passes.m.include_hidden_states: the graph's outputs are logits and cache",
        "passes.k: OnnxKQuantQuantization rounds a finished ONNX graph",
        "passes.m: precision fp16 and fp32 are not possible",
        "passes: ModelBuilder is the step after GptqQuantizer",
    ):
        assert sentence in err
    last = err.splitlines()[-1]
    assert "Change the run config as these lines say." in last
    assert "--drop systems" in last  # which is for the CPU


@pytest.mark.parametrize("nested", [False, True])
def test_the_graph_is_built_for_the_target(nested: bool, run: Importer) -> None:
    fields = {"accelerators": [{"execution_providers": ["CUDAExecutionProvider"]}]}
    cuda = {"type": "LocalSystem", **({"config": fields} if nested else fields)}
    passes = {"q": config()["passes"]["q"], "m": {"type": "ModelBuilder", "precision": "int4"}}
    document = config(passes=passes, systems={"gpu": cuda}, target="gpu")
    workflow = run.workflow(document, "--output-uri", "s3://artifacts/x")
    assert workflow["passes"][1]["execution_provider"] == "cuda"


def test_a_data_config_inside_a_pass_gets_a_name(run: Importer) -> None:
    inside = {"type": "HuggingfaceContainer", "load_dataset_config": {"data_name": "s3://texts/x.txt"}}
    document = config(passes={"q": {"type": "GptqQuantizer", "data_config": inside}}, data_configs=[])
    workflow = run.workflow(document, "--output-uri", "s3://artifacts/x")
    assert workflow["passes"][0]["data_config"] == "q"
    assert [item["name"] for item in workflow["data_configs"]] == ["q"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--drop", "passes.q.bitts"], "--drop passes.q.bitts: there is no field of this name"),
        (["--name", "Not_a_name"], "--name Not_a_name: a name of Kubernetes has"),
        (["--data", "tran=s3://texts/x.txt"], "--data tran: there is no data config of this name"),
    ],
)
def test_an_option_that_matches_nothing_is_refused(options: list[str], sentence: str, run: Importer) -> None:
    code, _, err = run(config(), "--output-uri", "s3://artifacts/x", *options)
    assert code == ExitCode.INVALID_WORKFLOW
    assert sentence in err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"passes": {"q": {**GPTQ, "bits": "SEARCHABLE_VALUES"}}}, "Olive's own list of values"),
        ({"passes": {"q": GPTQ, "empty": {}}}, "passes.empty: type: field required"),
        ({"engine": "x"}, "engine: must be an object"),
        (
            {"input_model": {"type": "HfModel", "model_path": "s3://models/x", "config": "x"}},
            "input_model.config: must be an object",
        ),
    ],
)
def test_an_option_that_the_message_proposes_helps(
    changes: dict[str, Any], sentence: str, run: Importer
) -> None:
    place = ["--output-uri", "s3://artifacts/x"]
    code, _, err = run(config(**changes), *place)
    assert code == ExitCode.INVALID_WORKFLOW
    assert sentence in err
    options = shlex.split(err.splitlines()[-1].partition(" add: ")[2])
    assert not options or run(config(**changes), *place, *options)[0] == ExitCode.DONE


def test_a_part_of_a_split_is_dropped_with_the_data_it_belongs_to(run: Importer) -> None:
    load = {"data_name": "s3://texts/folder", "split": "train[:100]"}
    document = config(data_configs=[{"name": "train", "load_dataset_config": load}])
    code, _, err = run(document, "--output-uri", "s3://artifacts/x")
    assert code == ExitCode.INVALID_WORKFLOW
    assert "load_dataset_config.split: a part of a split is not available" in err
    code, out, err = run(document, "--output-uri", "s3://artifacts/x", "--data", "train=s3://texts/mine")
    assert code == ExitCode.DONE
    assert "load_dataset_config.split: all that lies at the given URI is read" in err
    data = yaml.safe_load(out)["spec"]["workflow"]["data_configs"]
    assert data[0]["load_dataset_config"] == {"data_name": "s3://texts/mine", "split": "train"}
