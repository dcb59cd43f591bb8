"""Run configs of Microsoft Olive (0.7 and newer) as QuantizationJob manifests.

Maps with names become lists whose items carry `name`, in the order of the file; Olive's nested `config`
and `params` are folded away; accuracy metrics with a perplexity sub-type become the metric type
perplexity. Nothing is dropped silently: every field without an equivalent is refused by name with the
reason, all in one message, and the result is validated by the contract's models.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from quantization_api import API_VERSION, KIND
from quantization_api.failures import Category, QuantizationError
from quantization_api.faults import sentences
from quantization_api.spec import QuantizationJobSpec
from quantizer.boundary.bounded_json import parse
from quantizer.boundary.reading import reading
from quantizer.boundary.yaml_file import MAX_FILE_BYTES, read_file, yaml_documents
from quantizer.cli.olive.translation import Object, Translation

CHANGE = "Change or remove these fields; --drop NAME leaves out a field wherever it occurs."


def load_config(path: Path) -> Object:
    """The run config in a JSON or YAML file.

    Raises:
        QuantizationError: InvalidWorkflow when it cannot be read, is neither, or has a key twice.
    """
    with reading(Category.INVALID_WORKFLOW, str(path), CHANGE):
        data = read_file(path)
        if path.suffix in (".yaml", ".yml"):
            config = next(yaml_documents(data), None)
        else:
            config = parse(data, MAX_FILE_BYTES, _unique)
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    return config


def import_config(
    config: Mapping[str, Any],
    *,
    name: str,
    output_uri: str | None,
    model_path: str | None = None,
    data_names: Mapping[str, str] | None = None,
    drop: Iterable[str] = (),
) -> Object:
    """The manifest of a run config.

    Args:
        config: as load_config gives it.
        name: metadata.name. output_uri: spec.output.uri.
        model_path: replaces input_model.model_path.
        data_names: data_name to use, by name of the data config; also replaces the other fields that say
            where the data come from (subset, data_dir, data_files).
        drop: names of fields to leave out wherever they occur.

    Raises:
        QuantizationError: InvalidWorkflow with every problem, one per line.
    """
    translation = Translation(dict(data_names or {}), frozenset(drop))
    with reading(Category.INVALID_WORKFLOW, "the run config", CHANGE):
        workflow = translation.workflow(dict(config), model_path)
    if output_uri is None:
        translation.problems.append("output.uri: a run config has no output in S3; use --output-uri URI")
    if translation.problems:
        raise _refused(translation.problems)
    manifest = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {"workflow": workflow, "output": {"uri": output_uri}},
    }
    with reading(Category.INVALID_WORKFLOW, "the run config", CHANGE):
        try:
            QuantizationJobSpec.model_validate(manifest["spec"])
        except ValidationError as error:
            raise _refused(sentences(error)) from error
    return manifest


def render(manifest: Object, origin: str) -> str:
    """The manifest as YAML, with a comment that names its origin."""
    head = (
        f"# Imported from {origin}. Add spec.storage (endpoint, region, credentialsSecret) and spec.template\n"
        "# (resources) as your cluster needs them.\n"
    )
    return head + yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110)


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    result: Object = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'the key "{key}" appears twice in one object')
        result[key] = value
    return result


def _refused(problems: list[str]) -> QuantizationError:
    return QuantizationError(
        Category.INVALID_WORKFLOW,
        "\n".join(problems),
        CHANGE,
    )
