"""Translates the objects of an Olive run config into those of a workflow, and collects what is refused."""

from collections.abc import Iterator
from typing import Any

from quantization_api.passes import PASS_TYPES
from quantization_api.text import did_you_mean
from quantizer.cli.olive.refusals import FIELDS

Object = dict[str, Any]

FILE_LOADERS = ("json", "text", "csv")
DEFAULT, SEARCHABLE = "DEFAULT_VALUE", "SEARCHABLE_VALUES"
NATIVE_PASSES = {
    "gptq": "write GptqQuantizer, whose checkpoint other software can read",
    "gptqmodel": "write GptqQuantizer",
    "rtn": "write GptqQuantizer, which is better at the same size",
    "kquant": "write GptqQuantizer",
}


class Translation:
    """Translates a run config and collects the problems."""

    def __init__(self, data_names: dict[str, str], drop: frozenset[str]) -> None:
        self.data_names, self.drop = data_names, drop
        self.problems: list[str] = []

    def workflow(self, config: Object, model_path: str | None) -> Object:
        """The whole config."""
        config = self._without_dropped(config)
        engine = config.pop("engine", None)
        if isinstance(engine, dict):
            for key in [key for key in engine if key in config]:
                self.problems.append(f"engine.{key}: is also given at the top level; keep one of them")
            config = {**engine, **config}
        elif engine is not None:
            self.problems.append("engine: must be an object")
        self._refuse("config", config, "")
        if config.pop("evaluate_input_model", True) is not True:
            self.problems.append(
                "evaluate_input_model: the input model is always evaluated too; leave it out"
            )
        workflow: Object = {"input_model": self._input_model(config.pop("input_model", None), model_path)}
        if configs := self._named(config.pop("data_configs", None), "data_configs"):
            workflow["data_configs"] = [self._data_config(item, path) for item, path in configs]
            known = [str(item.get("name")) for item in workflow["data_configs"]]
            self.problems += [
                f"--data {item}: there is no data config with that name{did_you_mean(item, known)}"
                for item in self.data_names
                if item not in known
            ]
        elif self.data_names:
            self.problems.append("--data: the file has no data_configs")
        workflow["passes"] = self._passes(config.pop("passes", None), config.pop("pass_flows", None))
        if evaluators := self._named(config.pop("evaluators", None), "evaluators"):
            workflow["evaluators"] = [self._evaluator(item, path) for item, path in evaluators]
        evaluator = config.pop("evaluator", None)
        if isinstance(evaluator, dict):
            self.problems.append("evaluator: define it in evaluators and give its name here")
        elif evaluator is not None:
            workflow["evaluator"] = evaluator
        if search := config.pop("search_strategy", None):
            workflow["search_strategy"] = {} if search is True else search
        return {**workflow, **config}  # what is left is unknown, and the models say so

    def _input_model(self, item: Any, model_path: str | None) -> Object:
        model: Object = self._folded(item, "config", "input_model")
        self._refuse("input_model", model, "input_model.")
        if str(model.get("type", "")).lower() == "hfmodel":
            model["type"] = "HfModel"
        if model_path is not None:
            model["model_path"] = model_path
        return model

    def _data_config(self, config: Object, path: str) -> Object:
        self._refuse("data_config", config, f"{path}.")
        if str(config.get("type", "")).lower() == "huggingfacecontainer":
            config["type"] = "HuggingfaceContainer"
        for part in ("load_dataset_config", "pre_process_data_config"):
            if part in config:
                config[part] = self._folded(config[part], "params", f"{path}.{part}")
        load = config.setdefault("load_dataset_config", {})
        replaced = self.data_names.get(str(config.get("name")))
        files = load.get("data_files")
        if replaced is not None:
            load["data_name"] = replaced
            for key in ("subset", "data_dir", "data_files"):
                load.pop(key, None)
        elif load.get("data_name") in FILE_LOADERS and isinstance(files, str):
            load["data_name"] = load.pop("data_files")
        self._refuse("load_dataset_config", load, f"{path}.load_dataset_config.")
        if isinstance(options := config.get("pre_process_data_config"), dict):
            self._refuse("pre_process_data_config", options, f"{path}.pre_process_data_config.")
        return config

    def _passes(self, passes: Any, flows: Any) -> list[Object]:
        if not isinstance(passes, dict) or not passes:
            self.problems.append(
                "passes: the file has none; write a GptqQuantizer, AutoAWQQuantizer or QuaRot"
            )
            return []
        order = list(passes)
        if flows is not None:
            if (
                isinstance(flows, list)
                and len(flows) == 1
                and isinstance(flows[0], list)
                and sorted(flows[0]) == sorted(order)
            ):
                order = flows[0]
            else:
                self.problems.append(
                    "pass_flows: only one flow with every pass is possible; split other flows into jobs"
                )
        return [self._pass(name, passes[name]) for name in order]

    def _pass(self, name: str, item: Any) -> Object:
        path = f"passes.{name}"
        if isinstance(item, list) and len(item) == 1:
            item = item[0]
        if not isinstance(item, dict):
            self.problems.append(
                f"{path}: alternatives need a search, which is not available; keep one of them"
            )
            return {}
        item = self._folded(item, "config", path)
        self._refuse("pass", item, f"{path}.")
        kind = str(item.pop("type", ""))
        types = {cls.__name__.lower(): cls.__name__ for cls in PASS_TYPES}
        if kind.lower() in NATIVE_PASSES:
            self.problems.append(f"{path}.type: {kind} is not available; {NATIVE_PASSES[kind.lower()]}")
        for key in [key for key, value in item.items() if value == SEARCHABLE]:
            self.problems.append(f"{path}.{key}: searches are not available in this release; write one value")
        given = {key: value for key, value in item.items() if value is not None and value != DEFAULT}
        return {"name": name, "type": types.get(kind.lower(), kind), **given}

    def _evaluator(self, evaluator: Object, path: str) -> Object:
        self._refuse("evaluator", evaluator, f"{path}.")
        metrics = evaluator.get("metrics")
        if isinstance(metrics, list):
            evaluator["metrics"] = [
                translated
                for number, metric in enumerate(metrics)
                for translated in self._metric(metric, f"{path}.metrics[{number}]")
            ]
        return evaluator

    def _metric(self, metric: Any, path: str) -> list[Object]:
        """One metric for each sub-type."""
        if not isinstance(metric, dict):
            self.problems.append(f"{path}: must be an object")
            return []
        metric = dict(metric)
        self._refuse("metric", metric, f"{path}.")
        sub_types = metric.pop("sub_types", None) or [{}]
        result = []
        for number, sub_type in enumerate(sub_types):
            where = f"{path}.sub_types[{number}]"
            sub_type = {"name": sub_type} if isinstance(sub_type, str) else dict(sub_type)
            self._refuse("sub_type", sub_type, f"{where}.")
            result.append(self._sub_type(metric, sub_type, where, len(sub_types) > 1))
        return result

    def _sub_type(self, metric: Object, sub_type: Object, path: str, several: bool) -> Object:
        kind = sub_type.pop("name", None)
        translated = dict(metric)
        if several and kind:
            translated["name"] = f"{metric.get('name')}-{kind}"
        if metric.get("type") == "accuracy" and kind == "perplexity":
            translated["type"] = "perplexity"
        elif metric.get("type") == "accuracy" and kind is not None:
            self.problems.append(f"{path}.name: {kind} is not available in this release; write perplexity")
        elif metric.get("type") == "size_on_disk" and kind not in (None, "bytes"):
            self.problems.append(f"{path}.name: size_on_disk is measured in bytes, not in {kind}")
        higher = sub_type.pop("higher_is_better", None)
        if higher and translated.get("type") in ("perplexity", "size_on_disk"):
            self.problems.append(
                f"{path}.higher_is_better: a lower {translated['type']} is better; write false"
            )
        if sub_type.get("goal") is not None:
            translated["goal"] = sub_type.pop("goal")
        self.problems += [
            f'{path}: unknown field "{key}"' for key, value in sub_type.items() if value is not None
        ]
        return translated

    def _named(self, value: Any, path: str) -> list[tuple[Object, str]]:
        """The items of a map with names, or of a list, each with its place in the file."""
        if isinstance(value, dict):
            items = [
                ({"name": name, **item}, f"{path}.{name}")
                for name, item in value.items()
                if isinstance(item, dict)
            ]
            if len(items) < len(value):
                self.problems.append(f"{path}: every item must be an object")
            return items
        if isinstance(value, list):
            if not all(isinstance(item, dict) for item in value):
                self.problems.append(f"{path}: every item must be an object")
                return []
            return [(dict(item), f"{path}[{number}]") for number, item in enumerate(value)]
        if value is not None:
            self.problems.append(f"{path}: must be a map or a list")
        return []

    def _folded(self, item: Any, inner: str, path: str) -> Object:
        """An object whose fields may also be nested under `inner`."""
        if not isinstance(item, dict):
            self.problems.append(f"{path}: must be an object")
            return {}
        outer: Object = dict(item)
        nested = outer.pop(inner, None)
        if nested is None:
            return outer
        if not isinstance(nested, dict) or set(nested) & set(outer):
            self.problems.append(
                f"{path}.{inner}: must be an object, and must not repeat a field given beside it"
            )
            return outer
        return {**outer, **nested}

    def _refuse(self, kind: str, item: Object, path: str) -> None:
        """Removes every field without an equivalent and notes the problem; null is removed without one."""
        for key in list(item):
            if key in FIELDS[kind]:
                if item.pop(key) is not None:
                    self.problems.append(f"{path}{key}: {FIELDS[kind][key]}")
            elif item[key] is None:
                del item[key]

    def _without_dropped(self, value: Any) -> Any:
        there = frozenset(_fields(value))
        self.problems += [
            f"--drop {name}: the file has no such field{did_you_mean(name, sorted(there))}"
            for name in sorted(self.drop - there)
        ]
        return _without(value, self.drop)


def _fields(value: Any) -> Iterator[str]:
    """The names of all fields, at any depth."""
    if isinstance(value, dict):
        yield from map(str, value)
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _fields(item)


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    return value
