"""The files beside the weights: what is copied as it is, and the configs that say how it was quantized."""

import json
from typing import Any

from quantizer.checkpoint.source import Source

COPIED_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".md")
COPIED_NAMES = ("LICENSE", "NOTICE", "USE_POLICY")
REPLACED = ("config.json", "quantize_config.json")


def side_files(source: Source) -> list[str]:
    """Names of the files that are copied byte for byte: tokenizer, generation config, licence, templates.

    Weights and their index are written anew; code (.py) is never copied, since it is never run.
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
    return _json({**config, "quantization_config": quantization})


def quantize_config(quantization: dict[str, object]) -> bytes:
    """quantize_config.json, which AutoGPTQ and its successors read beside config.json."""
    return _json({**quantization, "model_name_or_path": None, "model_file_base_name": "model"})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
