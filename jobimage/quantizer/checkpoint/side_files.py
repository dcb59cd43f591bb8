"""The files beside the weights: what is copied as it is, and the configs that say how it was quantized."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from quantizer.boundary.bounded_json import in_utf8
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.source import Source, read_whole

COPIED_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".md")
COPIED_NAMES = ("LICENSE", "NOTICE", "USE_POLICY")
REPLACED = ("config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""What says how the weights are stored: of the artifact's the format does."""
OF_OTHER_FILES = (
    "adapter_config.json",
    "params.json",
    "modules.json",
    "model_index.json",
    "genai_config.json",
)
"""What describes files that are not copied: an adapter, weights in other formats, a pipeline around the model.

A reader that finds one looks for those files and stops.
"""
CODE = "auto_map"
"""The field that names classes in .py files of the model."""


def side_files(source: Source) -> list[str]:
    """Names of the files that are copied (see `as_copied`): tokenizer, generation config, licence, templates.

    Weights and their index are rewritten; code (.py) is never copied, since it is never run.
    """
    return [
        name
        for name in sorted(source.list())
        if name not in (*REPLACED, *OF_OTHER_FILES)
        and not name.endswith(".index.json")
        and (name.endswith(COPIED_SUFFIXES) or name.startswith(COPIED_NAMES))
        and ("/" not in name or name.endswith(".jinja"))
    ]


def is_document(name: str) -> bool:
    """Whether a side file is for people only, such as a README or a licence."""
    return name.endswith(".md") or name.startswith(COPIED_NAMES)


def as_copied(source: Source, name: str) -> bytes:
    """The bytes of a side file in the artifact: the input's.

    But a JSON file is in UTF-8 without a byte order mark, which readers want, and names no code, which is not copied.

    Raises:
        QuantizationError: what the source raises.
    """
    data = read_whole(source, name)
    if name.endswith(".json"):
        data = in_utf8(data)
    if not name.endswith(".json") or f'"{CODE}"'.encode() not in data:
        return data
    try:
        config = json.loads(data)
    except ValueError:  # nobody can read it, with code or without
        return data
    return json_file(without_code(config)) if isinstance(config, dict) and CODE in config else data


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that names no code of the model: a reader that may run code would look for it in the artifact."""
    return {key: value for key, value in config.items() if key != CODE}


def quantized_config(config: dict[str, Any], quantization: dict[str, object]) -> bytes:
    """config.json of the quantized model: the input's, and its quantization_config."""
    return json_file({**config, "quantization_config": quantization})


def quantize_config(quantization: Mapping[str, object]) -> bytes:
    """quantize_config.json, which AutoGPTQ and its successors read beside config.json."""
    return json_file({**quantization, "model_name_or_path": None, "model_file_base_name": "model"})


def with_dtype(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a model whose floating-point tensors are stored in another type."""
    kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    return {**kept, "dtype": word(dtype)}


def json_file(value: dict[str, Any]) -> bytes:
    """A JSON object as a file."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
