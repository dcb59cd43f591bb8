"""Run configs of Microsoft Olive (0.7 and newer) as QuantizationJob manifests.

Maps with names become lists whose items carry `name`, in the order of the file; Olive's nested `config`
and `params` are folded away; accuracy metrics with a perplexity sub-type become the metric type
perplexity; the newer names of a pass become ours (docs/olive.md). What computes nothing here is left out, what would
change the result is refused, and one message names it all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from quantization_api import API_VERSION, KIND
from quantization_api.bounded import DnsName
from quantization_api.failures import Category, QuantizationError
from quantization_api.faults import sentences
from quantization_api.spec import Output, QuantizationJobSpec
from quantization_api.text import clean
from quantizer.boundary.bounded_json import parse
from quantizer.boundary.reading import reading
from quantizer.boundary.yaml_file import MAX_FILE_BYTES, read_file, yaml_documents
from quantizer.cli.olive.message import blocking, hint, message
from quantizer.cli.olive.notes import Kind, Note, Notes, Object
from quantizer.cli.olive.parts import checked
from quantizer.cli.olive.translation import workflow

CHANGE = "Name a run config of Olive, a JSON or YAML file."
OUTPUT_URI = "a run config has no output in storage; name a place for the artifact"
NAME = (
    "a name of Kubernetes has small letters, digits, - and . only, and begins and ends with a letter or digit"
)


@dataclass(frozen=True)
class Imported:
    """What became of a run config."""

    manifest: Object
    """The QuantizationJob; to be used only if `blocking(notes, strict)` is empty."""
    notes: tuple[Note, ...]
    """All that a person must know of."""


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


def translate(
    config: Mapping[str, Any],
    *,
    name: str,
    output_uri: str | None,
    model_path: str | None = None,
    data_names: Mapping[str, str] | None = None,
    drop: Iterable[str] = (),
) -> Imported:
    """The manifest of a run config, as far as it goes, and everything there is to say about it.

    Args:
        config: as load_config gives it.
        name: metadata.name. output_uri: spec.output.uri.
        model_path: replaces input_model.model_path.
        data_names: data_name to use, by name of the data config; also replaces the other fields that say
            where the data come from (subset, data_dir, data_files).
        drop: names or paths of fields to leave out, as Notes has them.
    """
    notes = Notes(drop)
    _check_name(name, notes)
    if output_uri is None:
        notes.need("--output-uri URI", OUTPUT_URI)
    else:
        checked(Output, {"uri": output_uri}, "--output-uri", notes, droppable=False)
    computed = workflow(config, model_path, data_names or {}, notes)
    spec = {"workflow": computed, "output": {"uri": output_uri}}
    notes.refuse_unused_drops(config)
    if not blocking(notes.items, strict=False):
        _check_the_whole(spec, notes)
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    return Imported(manifest, notes.items)


def import_config(config: Mapping[str, Any], *, strict: bool = False, **options: Any) -> Imported:
    """The manifest of a run config; options as for `translate`.

    Args:
        strict: also refuse what computes nothing here.

    Raises:
        QuantizationError: InvalidWorkflow with all that is in the way, in one message.
    """
    with reading(Category.INVALID_WORKFLOW, "the run config", CHANGE):
        imported = translate(config, **options)
    if found := blocking(imported.notes, strict):
        raise QuantizationError(Category.INVALID_WORKFLOW, message(imported.notes, strict), hint(found))
    return imported


def render(imported: Imported, origin: str) -> str:
    """The manifest as YAML, with a comment that names its origin and what was left out."""
    lines = [
        f"Imported from {origin}. Add spec.storage (endpoint, region, credentialsSecret) and spec.template",
        "(resources) as your cluster needs them.",
    ]
    for kind, said in ((Kind.LEFT_OUT, "Left out"), (Kind.AFTERWARDS, "Not part of the job")):
        if paths := [note.path for note in imported.notes if note.kind is kind]:
            lines.append(f"{said}: {', '.join(paths)}")
    comment = "".join(f"# {clean(line)}\n" for line in lines)
    return comment + yaml.safe_dump(imported.manifest, sort_keys=False, allow_unicode=True, width=110)


def _check_name(name: str, notes: Notes) -> None:
    try:
        TypeAdapter(DnsName).validate_python(name)
    except ValidationError:
        notes.refuse(f"--name {name}", NAME, droppable=False)


def _check_the_whole(spec: Object, notes: Notes) -> None:
    """The API server's table once more, over all that the parts were checked for one by one."""
    try:
        QuantizationJobSpec.model_validate(spec)
    except ValidationError as error:
        for sentence in sentences(error):
            where, _, said = sentence.partition(": ")
            notes.refuse(where, said, droppable=False)


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    result: Object = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'the key "{key}" appears twice in one object')
        result[key] = value
    return result
