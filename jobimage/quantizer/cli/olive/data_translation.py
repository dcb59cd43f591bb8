"""The data configs of a run config that its passes and metrics read, as those of a workflow."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from quantization_api.input_paths import PATH_PATTERN
from quantization_api.text import did_you_mean
from quantization_api.workflow import DataConfig, LoadDatasetConfig, PreProcessDataConfig
from quantizer.cli.olive.fields import DATA_CONFIG, LOAD_DATASET, PRE_PROCESS
from quantizer.cli.olive.notes import Notes, Object, not_a_field
from quantizer.cli.olive.parts import checked

DATA_FIELDS = ("data_config", "calibration_data_config")
FILE_LOADERS = ("json", "text", "csv", "parquet")
ELSEWHERE = ("subset", "data_dir", "data_files")
"""Fields that say where data come from, beside data_name."""
OWN_CHOICE: Object = {
    "strategy": "join",
    "max_seq_len": 2048,
    "max_samples": 128,
    "add_special_tokens": False,
}
"""How Olive prepares the text that it chooses itself."""
OWN_NAME = "calibration"
PLACEHOLDER = "s3://bucket/key"
"""Stands for a place that must be given, so that the rest can be checked."""
STRATEGY = "sequences are taken in text order and do not overlap; write join or line-by-line"


def data_configs(given: Any, wanted: Iterable[str], places: Mapping[str, str], notes: Notes) -> list[Object]:
    """The data configs that are wanted; of the others it is noted that nothing reads them.

    Args:
        given: `data_configs`. wanted: their names, as the passes and metrics have them.
        places: where the data lie, by name of the data config (--data).
    """
    items = notes.named(given, "data_configs")
    names = [item.get("name") for item, _ in items]
    wanted = set(wanted)
    for name in sorted(set(places) - {*map(str, names), *wanted}):
        near = did_you_mean(name, {*map(str, names), *wanted})
        notes.refuse(f"--data {name}", f"there is no data config of this name{near}", droppable=False)
    found = []
    for item, path in items:
        if str(item.get("name")) in wanted:
            found.append(_data_config(item, path, places.get(str(item["name"])), notes))
        else:
            notes.leave_out(path, "nothing in the workflow reads it")
    return found


def written_in_place(passes: list[Object]) -> list[Object]:
    """The data configs that passes hold themselves, under the pass's name; each pass gets the name instead."""
    found = []
    for item in passes:
        for field in DATA_FIELDS:
            if isinstance(config := item.get(field), dict):
                name = str(config.get("name") or item["name"])
                found.append({**config, "name": name})
                item[field] = name
    return found


def own_choice(
    names: Iterable[Any], passes: list[Object], places: Mapping[str, str], notes: Notes
) -> list[Object]:
    """The data config for passes of GPTQ that have none, which Olive calibrates with a text of a hub.

    Args:
        names: of the data configs there are. passes: of the workflow; those without text get the new config's name.
    """
    without = [item for item in passes if item["type"] == "GptqQuantizer" and "data_config" not in item]
    if not without:
        return []
    name = OWN_NAME if OWN_NAME not in set(map(str, names)) else f"{OWN_NAME}-of-{without[0]['name']}"
    if name not in places:
        notes.need(
            f"--data {name}=URI",
            f"passes.{without[0]['name']} has no data_config, and Olive takes a text from a hub then; "
            "name a text to calibrate with",
        )
    for item in without:
        item["data_config"] = name
    load = {"data_name": places.get(name, PLACEHOLDER)}
    return [{"name": name, "load_dataset_config": load, "pre_process_data_config": dict(OWN_CHOICE)}]


def _data_config(config: Object, path: str, place: str | None, notes: Notes) -> Object:
    config = notes.sifted(
        DATA_CONFIG,
        config,
        f"{path}.",
        DataConfig.model_fields,
        not_a_field("a data config", DataConfig.model_fields),
    )
    load = notes.folded(config.pop("load_dataset_config", {}), "params", f"{path}.load_dataset_config")
    options = notes.folded(
        config.pop("pre_process_data_config", {}), "params", f"{path}.pre_process_data_config"
    )
    if str(config.get("type", "")).lower() == "huggingfacecontainer":
        config["type"] = "HuggingfaceContainer"
    config["load_dataset_config"] = _load(
        load, f"{path}.load_dataset_config", str(config.get("name")), place, notes
    )
    if options:
        config["pre_process_data_config"] = _pre_process(options, f"{path}.pre_process_data_config", notes)
    checked(DataConfig, {**config, **_PARTS}, path, notes)  # its parts have been
    return config


_PARTS: Object = {"load_dataset_config": {"data_name": PLACEHOLDER}, "pre_process_data_config": {}}


def _load(load: Object, path: str, name: str, place: str | None, notes: Notes) -> Object:
    files = load.get("data_files")
    if load.get("data_name") in FILE_LOADERS and isinstance(files, str):
        load = {**{key: value for key, value in load.items() if key != "data_files"}, "data_name": files}
    hub = load.get("data_name")
    if place is None and not (isinstance(hub, str) and re.match(PATH_PATTERN, hub)):
        notes.need(
            f"--data {name}=URI",
            f"{path}.data_name is {hub}, and nothing is downloaded from a hub; copy its text to S3 or to a mounted "
            "volume",
        )
        place = PLACEHOLDER
    if place is not None:
        load = {key: value for key, value in load.items() if key not in ELSEWHERE} | {"data_name": place}
    load = _whole_split(load, f"{path}.split", place is not None, notes)
    known = LoadDatasetConfig.model_fields
    load = notes.sifted(LOAD_DATASET, load, f"{path}.", known, not_a_field("load_dataset_config", known))
    checked(LoadDatasetConfig, load, path, notes)
    return load


def _whole_split(load: Object, path: str, replaced: bool, notes: Notes) -> Object:
    """Without a part like [:100] behind the name of the split; `replaced`: its rows are not the run config's anyway."""
    name, part, _ = str(load.get("split")).partition("[")
    if not part or notes.is_dropped(path, "split"):
        return load
    if replaced:
        notes.leave_out(path, "all that lies at the given URI is read, up to max_samples", droppable=False)
    else:
        notes.refuse(
            path, "a part of a split is not available; store these rows as a data set", droppable=False
        )
    return {**load, "split": name}


def _pre_process(options: Object, path: str, notes: Notes) -> Object:
    known = PreProcessDataConfig.model_fields
    options = notes.sifted(
        PRE_PROCESS, options, f"{path}.", known, not_a_field("pre_process_data_config", known)
    )
    columns = options.get("text_cols")
    if isinstance(columns, list) and len(columns) == 1:
        options["text_cols"] = columns[0]
    elif isinstance(columns, list):
        notes.refuse(
            f"{path}.text_cols", "one column has the text; store the finished text in one", droppable=False
        )
        del options["text_cols"]
    strategy = options.get("strategy")
    if isinstance(strategy, str) and strategy in (
        "line-by-line-random",
        "join-random",
        "join-sliding-window",
    ):
        notes.refuse(f"{path}.strategy", STRATEGY)
        del options["strategy"]
    checked(PreProcessDataConfig, options, path, notes)
    return options
