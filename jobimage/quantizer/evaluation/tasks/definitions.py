"""Task files of lm-eval from outside: YAML without code, and data files that lie beside them."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import did_you_mean
from quantizer.boundary.reading import reading
from quantizer.boundary.yaml_file import read_file, yaml_documents

CORRECT = (
    "Correct the task file: it is lm-eval's YAML without code, and its data files lie in the same folder."
)
MOST_INCLUDES = 8
LOADERS = {"json": (".json", ".jsonl"), "csv": (".csv",), "parquet": (".parquet",), "text": (".txt",)}
"""dataset_path, and the files that are read so; none of them is compressed as a whole."""
TASK_SUFFIXES = (".yaml", ".yml")
DATA_SUFFIXES = tuple(suffix for suffixes in LOADERS.values() for suffix in suffixes)
TEMPLATES = (
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "doc_to_decontamination_query",
    "gen_prefix",
    "description",
)
FIELDS = (
    *TEMPLATES,
    *("task", "task_alias", "tag", "include", "metadata", "dataset_path", "dataset_name", "dataset_kwargs"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "fewshot_config", "num_fewshot"),
    *("target_delimiter", "fewshot_delimiter", "output_type", "generation_kwargs", "repeats", "metric_list"),
    *("filter_list", "should_decontaminate"),
)
KINDS: dict[str, type] = {
    **dict.fromkeys(("target_delimiter", "fewshot_delimiter"), str),
    **dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split"), str),
    **dict.fromkeys(("fewshot_config", "generation_kwargs", "dataset_kwargs"), dict),
    **dict.fromkeys(("num_fewshot", "repeats"), int),
    "should_decontaminate": bool,
}
"""What a field must be, where nothing else is said of it."""
WORDS = {str: "a string", dict: "a mapping", int: "a whole number", bool: "true or false"}
METRICS = (
    *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    *("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"),
)
AGGREGATIONS = ("mean", "perplexity", "weighted_perplexity", "bits_per_byte")
FILTERS = (
    *("take_first", "take_first_k", "majority_vote", "regex", "regex_pos", "multi_choice_regex"),
    *("remove_whitespace", "lowercase", "uppercase", "map"),
)
SAMPLERS = ("default", "first_n")
OUTPUTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
Task = dict[str, Any]


def read_tasks(folder: Path, names: list[str]) -> dict[str, Task]:
    """The definitions of tasks, by name, ready for lm-eval: includes are merged in, data files are absolute paths.

    Raises:
        QuantizationError: DataNotFound for a task that is not there, or that needs code or the network.
    """
    files = _definitions(folder)
    found: dict[str, Task] = {}
    for name in names:
        if name not in files:
            there = ", ".join(sorted(files)[:8]) or "no task"
            raise QuantizationError(
                Category.DATA_NOT_FOUND,
                f"task {name} is not in the task files, which have {there}{did_you_mean(name, files)}",
                "Name tasks as the field task of their YAML files does; a group or a tag is named by its tasks.",
            )
        with reading(Category.DATA_NOT_FOUND, f"task {name}", CORRECT):
            found[name] = _checked(_with_includes(files[name], folder), folder)
    return found


def _definitions(folder: Path) -> dict[str, Path]:
    """The file of each task. A file that has none is for others to include."""
    files: dict[str, Path] = {}
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        with reading(Category.DATA_NOT_FOUND, f"the task file {path.relative_to(folder)}", CORRECT):
            name = _document(path).get("task")
        if not isinstance(name, str):
            continue
        if name in files:
            raise QuantizationError(
                Category.DATA_NOT_FOUND,
                f"{files[name].relative_to(folder)} and {path.relative_to(folder)} both define task {name}",
                CORRECT,
            )
        files[name] = path
    return files


def _document(path: Path) -> Task:
    data = read_file(path)
    if b"!function" in data:
        raise ValueError(
            "it has !function: code from a task is never run; write a jinja template, or write what the function "
            "makes into the data file"
        )
    documents = list(yaml_documents(data))
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ValueError("it is not one mapping")
    return documents[0]


def _with_includes(path: Path, folder: Path, depth: int = 0) -> Task:
    if depth > MOST_INCLUDES:
        raise ValueError(f"includes are nested more than {MOST_INCLUDES} deep")
    found = _document(path)
    included = found.pop("include", None) or []
    merged: Task = {}
    for name in included if isinstance(included, list) else [included]:
        other = _inside(folder, path.parent, name)
        merged |= _with_includes(other, folder, depth + 1)
    return merged | found


def _inside(folder: Path, base: Path, name: object) -> Path:
    """A file of the folder that another one names."""
    if not isinstance(name, str) or "://" in name or "::" in name or any(c in name for c in "*?["):
        raise ValueError(f"{name!r} does not name one file")
    path = (base / PurePosixPath(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or PurePosixPath(name).is_absolute():
        raise ValueError(f"{name} is not in the folder of the task files")
    if not path.is_file():
        raise ValueError(f"{name} is not there")
    return path


def _checked(task: Task, folder: Path) -> Task:
    for field in task:
        if field not in FIELDS:
            raise ValueError(f"{field} is not available: it is code, or is not of a task of text")
    for field, kind in KINDS.items():
        _check_kind(field, task.get(field), kind)
    for field in TEMPLATES:
        _check_template(field, task.get(field))
    _check_word("output_type", task.get("output_type", "generate_until"), OUTPUTS)
    if task.get("dataset_name") is not None:
        raise ValueError("dataset_name chooses a part of a data set on a hub; leave it out")
    for number, metric in enumerate(_list(task, "metric_list")):
        _check_word(f"metric_list[{number}].metric", metric.get("metric"), METRICS)
        if "aggregation" in metric:
            _check_word(f"metric_list[{number}].aggregation", metric["aggregation"], AGGREGATIONS)
        if metric.get("hf_evaluate"):
            raise ValueError("hf_evaluate is not available: it downloads code")
    for chain in _list(task, "filter_list"):
        for step in _list(chain, "filter"):
            _check_word("filter_list: function", step.get("function"), FILTERS)
    shots = task.get("fewshot_config") or {}
    for field in shots:
        if field in TEMPLATES:
            _check_template(f"fewshot_config.{field}", shots[field])
        elif field == "sampler":
            _check_word("fewshot_config.sampler", shots[field], SAMPLERS)
        elif field not in ("split", "samples", "fewshot_indices", "fewshot_delimiter", "target_delimiter"):
            raise ValueError(f"fewshot_config.{field} is not available")
    return {**task, **_data(task, folder)}


def _check_kind(field: str, value: object, kind: type) -> None:
    if value is not None and type(value) is not kind:
        raise ValueError(f"{field} is {value!r}; write {WORDS[kind]}")


def _check_template(field: str, value: Any) -> None:
    if value is None or isinstance(value, (str, int)):
        return
    if field.endswith(("doc_to_choice", "doc_to_target")) and isinstance(value, (list, dict)):
        return
    raise ValueError(f"{field} must be a jinja template")


def _check_word(field: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{field} is {value!r}; write {', '.join(known[:-1])} or {known[-1]}")


def _list(holder: Mapping[str, Any], field: str) -> Iterator[Mapping[str, Any]]:
    value = holder.get(field) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{field} must be a list of mappings")
    yield from value


def _data(task: Task, folder: Path) -> Task:
    """The fields that say where the documents are, with absolute paths."""
    loader = task.get("dataset_path")
    if not isinstance(loader, str) or loader not in LOADERS:
        raise ValueError(
            f"dataset_path is {loader!r}: nothing is downloaded; write {', '.join(LOADERS)} with "
            "dataset_kwargs: {data_files: ...} that names files in the folder of the task files"
        )
    given = task.get("dataset_kwargs")
    if not isinstance(given, dict) or set(given) != {"data_files"}:
        raise ValueError("dataset_kwargs must have data_files and nothing else")
    files = given["data_files"]
    if not isinstance(files, dict):
        files = {"train": files}
    return {
        "dataset_path": loader,
        "dataset_kwargs": {
            "data_files": {
                str(split): [
                    str(_data_file(loader, folder, name))
                    for name in (names if isinstance(names, list) else [names])
                ]
                for split, names in files.items()
            }
        },
    }


def _data_file(loader: str, folder: Path, name: object) -> Path:
    path = _inside(folder, folder, name)
    if path.suffix not in LOADERS[loader]:
        raise ValueError(
            f"{name} is not a file that dataset_path: {loader} reads ({', '.join(LOADERS[loader])})"
        )
    return path
