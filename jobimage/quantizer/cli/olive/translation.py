"""An Olive run config as the workflow of a QuantizationJob, with a note for all that does not come along."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from quantization_api.input_paths import PATH_PATTERN
from quantization_api.workflow import InputModel, Workflow
from quantizer.cli.olive.accelerators import execution_provider
from quantizer.cli.olive.data_translation import (
    DATA_FIELDS,
    PLACEHOLDER,
    data_configs,
    own_choice,
    written_in_place,
)
from quantizer.cli.olive.evaluator_translation import evaluator
from quantizer.cli.olive.fields import CONFIG, INPUT_MODEL, LOAD_KWARGS
from quantizer.cli.olive.notes import Notes, Object, not_a_field
from quantizer.cli.olive.parts import broken_by, checked
from quantizer.cli.olive.pass_translation import checked_passes, passes
from quantizer.cli.olive.search_translation import Searched, strategy

KNOWN = (
    "input_model",
    "data_configs",
    "passes",
    "pass_flows",
    "evaluators",
    "evaluator",
    "search_strategy",
)
ONE_TYPE = "models in the format of Hugging Face transformers are quantized here; write HfModel"
NO_TASK = "is not available; if the model generates text, write text-generation"


def workflow(
    config: Mapping[str, Any], model_path: str | None, places: Mapping[str, str], notes: Notes
) -> Object:
    """The workflow; complete and valid if no note blocks it.

    Args:
        model_path: of the input model, instead of the run config's.
        places: where the data lie, by name of the data config.
    """
    config = _flat(dict(config), notes)
    systems = None if notes.is_dropped("systems", "systems") else config.get("systems")
    provider = execution_provider(systems, config.get("target"))
    config = notes.sifted(CONFIG, config, "", KNOWN, not_a_field("a run config", (*KNOWN, *CONFIG)))
    model = _input_model(config.get("input_model"), model_path, notes)
    searched = Searched()
    made = passes(config.get("passes"), config.get("pass_flows"), provider, notes, searched)
    search = strategy(config.get("search_strategy"), searched, notes)
    chosen = evaluator(config.get("evaluators"), config.get("evaluator"), notes)
    data = _data(config.get("data_configs"), made, chosen, places, notes)
    result: Object = {"input_model": model, "data_configs": data, "passes": made}
    if chosen is not None:
        result |= {"evaluators": [chosen], "evaluator": chosen["name"]}
    if search is not None:
        result["search_strategy"] = search
    _check_the_whole(result, notes)
    return {key: value for key, value in result.items() if value != []}


def _flat(config: Object, notes: Notes) -> Object:
    """The fields of `engine` may stand at the top, too."""
    engine = config.pop("engine", None)
    if isinstance(engine, dict):
        for key in [key for key in engine if key in config]:
            notes.refuse(f"engine.{key}", "is also given at the top level; keep one of them", droppable=False)
        return {**engine, **config}
    if engine is not None:
        notes.refuse("engine", "must be an object", droppable=False)
    return config


def _input_model(item: Any, model_path: str | None, notes: Notes) -> Object:
    known = InputModel.model_fields
    model = notes.folded(item, "config", "input_model")
    loading = model.pop("load_kwargs", None)
    if loading is not None and not notes.is_dropped("input_model.load_kwargs", "load_kwargs"):
        _note_loading(loading, notes)
    model = notes.sifted(INPUT_MODEL, model, "input_model.", known, not_a_field("input_model", known))
    kind, task = model.pop("type", "HfModel"), model.get("task")
    if str(kind).lower() != "hfmodel":
        notes.refuse("input_model.type", f"{kind} is not available: {ONE_TYPE}", droppable=False)
    if task is not None and task not in ("text-generation", "text-generation-with-past"):
        notes.refuse("input_model.task", f"{task} {NO_TASK}", droppable=False)
        del model["task"]
    path = model_path if model_path is not None else model.get("model_path")
    if not (model_path is not None or (isinstance(path, str) and re.match(PATH_PATTERN, path))):
        notes.need(
            "--model-path URI",
            f"input_model.model_path is {path}, and nothing is downloaded from a hub; copy the model to S3 or to a "
            "mounted volume",
        )
        path = PLACEHOLDER
    model = {"type": "HfModel", **model, "model_path": path}
    checked(InputModel, model, "input_model", notes)
    return model


def _note_loading(loading: Any, notes: Notes) -> None:
    options = notes.folded(loading, "extra_args", "input_model.load_kwargs")
    sentence = not_a_field("load_kwargs", LOAD_KWARGS)
    notes.sifted(LOAD_KWARGS, options, "input_model.load_kwargs.", (), sentence)


def _data(
    given: Any, made: list[Object], chosen: Object | None, places: Mapping[str, str], notes: Notes
) -> list[Object]:
    """The data configs that passes and metrics read."""
    inline = written_in_place(made)
    named = [item.get("name") for item, _ in Notes().named(given, "data_configs")]
    own = own_choice(named, made, places, notes)
    metrics = chosen["metrics"] if chosen else []
    wanted = {str(item[key]) for item in [*made, *metrics] for key in DATA_FIELDS if key in item}
    items = _with(given, inline)
    return [*data_configs(items, wanted, places, notes), *own]


def _with(given: Any, inline: Iterable[Object]) -> Any:
    if isinstance(given, dict):
        return {**given, **{item["name"]: item for item in inline}}
    return [*given, *inline] if isinstance(given, list) else (given if given is not None else list(inline))


def _check_the_whole(result: Object, notes: Notes) -> None:
    """What no part alone can break: references, and which passes may follow which."""
    parts: Any = {
        **result,
        "passes": checked_passes(result["passes"], notes),
        "data_configs": [_Named(item.get("name")) for item in result["data_configs"]],
        "evaluators": [],
    }
    if "search_strategy" not in result and len(parts["passes"]) == len(result["passes"]) > 0:
        whole = Workflow.model_construct(**{**parts, "evaluator": None})
        for sentence in broken_by(whole):
            notes.refuse("passes", sentence, droppable=False)


class _Named:
    """A data config whose name is known; its parts have been checked."""

    def __init__(self, name: Any) -> None:
        self.name = name
