"""The files beside the weights: what is copied as it is, and the configs that say how it was quantized."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.source import Source

COPIED_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".md")
COPIED_NAMES = ("LICENSE", "NOTICE", "USE_POLICY")
REPLACED = ("config.json", "quantize_config.json")


def side_files(source: Source) -> list[str]:
    """Names of the files that are copied byte for byte: tokenizer, generation config, licence, templates.

    Weights and their index are rewritten; code (.py) is never copied, since it is never run.
    """
    return [
        name
        for name in sorted(source.list())
        if name not in REPLACED
        and not name.endswith(".index.json")
        and (name.endswith(COPIED_SUFFIXES) or name.startswith(COPIED_NAMES))
        and ("/" not in name or name.endswith(".jinja"))
    ]


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
