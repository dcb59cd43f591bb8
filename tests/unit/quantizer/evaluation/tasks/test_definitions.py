"""Task files from outside: what is taken, and what is refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantization_api.failures import Category, QuantizationError
from quantizer.evaluation.tasks.definitions import read_tasks

pytestmark = pytest.mark.unit

TASK: dict[str, Any] = {
    "task": "t",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "answer",
}


def folder_of(path: Path, *tasks: dict[str, Any]) -> Path:
    """A folder with a file for each task, and data."""
    for number, task in enumerate(tasks):
        (path / f"{number}.yaml").write_text(yaml.safe_dump(task))
    (path / "data.jsonl").write_text(json.dumps({"question": "q", "answer": 0}))
    return path


def refused(path: Path, names: list[str], sentence: str) -> None:
    with pytest.raises(QuantizationError, match=sentence) as caught:
        read_tasks(path, names)
    assert caught.value.category is Category.DATA_NOT_FOUND


def test_a_task_is_read_with_its_data_as_an_absolute_path(tmp_path: Path) -> None:
    found = read_tasks(folder_of(tmp_path, TASK), ["t"])["t"]
    assert found["dataset_kwargs"] == {"data_files": {"test": [str(tmp_path / "data.jsonl")]}}
    assert found["doc_to_text"] == "{{question}}"


def test_what_is_included_is_merged_below_what_stands_in_the_file(tmp_path: Path) -> None:
    base = {key: value for key, value in TASK.items() if key != "task"}
    folder_of(tmp_path, {"task": "t", "include": "shared/base.yaml", "doc_to_text": "mine"})
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/base.yaml").write_text(yaml.safe_dump(base))
    found = read_tasks(tmp_path, ["t"])["t"]
    assert found["doc_to_text"] == "mine"
    assert found["doc_to_target"] == "answer"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset_path": ["json"]}, r"dataset_path is \['json'\]: nothing is downloaded; write json, csv"),
        ({"dataset_path": {"json": 1}}, "dataset_path is .*: nothing is downloaded; write json, csv"),
        ({"output_type": ["multiple_choice"]}, "output_type is .*; write multiple_choice, "),
        ({"test_split": ["test"]}, "test_split is .*; write a string"),
        ({"fewshot_config": ["sampler"]}, "fewshot_config is .*; write a mapping"),
        ({"fewshot_config": "first_n"}, "fewshot_config is 'first_n'; write a mapping"),
        ({"generation_kwargs": ["until"]}, "generation_kwargs is .*; write a mapping"),
        ({"dataset_kwargs": ["data.jsonl"]}, "dataset_kwargs is .*; write a mapping"),
        ({"num_fewshot": "2"}, "num_fewshot is '2'; write a whole number"),
        ({"repeats": True}, "repeats is True; write a whole number"),
        ({"should_decontaminate": "no"}, "should_decontaminate is 'no'; write true or false"),
        ({"metric_list": {"metric": "acc"}}, "metric_list must be a list of mappings"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_value_of_another_kind_is_refused_with_what_to_write(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    refused(folder_of(tmp_path, {**TASK, **changes}), ["t"], sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"process_docs": "f"}, "process_docs is not available: it is code"),
        ({"custom_dataset": "f"}, "custom_dataset is not available"),
        ({"unsafe_code": True}, "unsafe_code is not available"),
        (
            {"dataset_path": "EleutherAI/arithmetic"},
            "nothing is downloaded; write json, csv, parquet, text with",
        ),
        ({"dataset_path": "./loader.py"}, "nothing is downloaded"),
        ({"dataset_name": "main"}, "dataset_name chooses a part of a data set on a hub"),
        (
            {"dataset_kwargs": {"data_files": {"test": "../data.jsonl"}}},
            "not in the folder of the task files",
        ),
        ({"dataset_kwargs": {"data_files": {"test": "/etc/passwd"}}}, "not in the folder of the task files"),
        ({"dataset_kwargs": {"data_files": {"test": "https://host/data.jsonl"}}}, "does not name one file"),
        ({"dataset_kwargs": {"data_files": {"test": "*.jsonl"}}}, "does not name one file"),
        ({"dataset_kwargs": {"data_files": {"test": "zip://a::b.zip"}}}, "does not name one file"),
        (
            {"dataset_kwargs": {"data_files": {"test": "0.yaml"}}},
            "is not a file that dataset_path: json reads",
        ),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "must have data_files and nothing else"),
        ({"metric_list": [{"metric": "bleu"}]}, "metric is 'bleu'; write acc, acc_norm"),
        ({"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]}, "it downloads code"),
        ({"filter_list": [{"name": "n", "filter": [{"function": "custom"}]}]}, "function is 'custom'"),
        ({"output_type": "rolling"}, "output_type is 'rolling'"),
        ({"fewshot_config": {"process_docs": "f"}}, "fewshot_config.process_docs is not available"),
        ({"doc_to_text": ["a"]}, "doc_to_text must be a jinja template"),
        ({"include": "nothing.yaml"}, "nothing.yaml is not there"),
        ({"include": "0.yaml"}, "nested more than 8 deep"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_code_and_downloads_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    refused(folder_of(tmp_path, {**TASK, **changes}), ["t"], sentence)


def test_a_function_in_a_task_file_is_never_imported(tmp_path: Path) -> None:
    folder_of(tmp_path, TASK)
    (tmp_path / "utils.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nf = 1\n")
    text = (tmp_path / "0.yaml").read_text() + "process_results: !function utils.f\n"
    (tmp_path / "0.yaml").write_text(text)
    refused(tmp_path, ["t"], "code from a task is never run")
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "secret.jsonl").write_text("{}")
    folder = folder_of(tmp_path / "tasks", TASK)
    (folder / "data.jsonl").unlink()
    (folder / "data.jsonl").symlink_to(tmp_path / "secret.jsonl")
    refused(folder, ["t"], "not in the folder of the task files")


def test_an_unknown_task_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    refused(folder_of(tmp_path, {**TASK, "task": "stories"}), ["storys"], "did you mean stories")


def test_two_files_of_one_task_are_refused(tmp_path: Path) -> None:
    refused(folder_of(tmp_path, TASK, TASK), ["t"], "both define task t")
