"""A model's configs as transformers 4 expects them: the stock packages need it, and it misreads those of version 5.

`OlderConfigs` presents a source so that the tokenizer, the decoder and the packages of the legacy image understand it;
files of the artifact are always copied from the source itself.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import Buffer, Source, read_whole

OLDER_MODEL_TYPES = frozenset({"gpt_neox", "llama", "mistral", "opt", "phi3", "qwen2", "qwen3"})
"""What the packages of the legacy image quantize (implementations.model_types)."""


def is_older() -> bool:
    """Whether the transformers of this image is one before 5."""
    return int(transformers.__version__.partition(".")[0]) < 5


def require_newer(what: str) -> None:
    """Refuses what needs transformers 5 and cannot even be imported without it.

    Raises:
        QuantizationError: ModelUnsupported, on the transformers of the legacy image.
    """
    if is_older():
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"{what} needs transformers 5; this image has {transformers.__version__}, for the stock packages",
            "Use the native engine's image: leave out spec.template.image.",
        )


def compute_rotary(module: Any, device: torch.device) -> None:
    """Gives a rotary embedding on the meta device its frequencies, as its class does when it is made.

    Version 5 computes them with the model's first weights, version 4 in the constructor only. Other modules,
    and those that have them already, are left alone.
    """
    frequencies = getattr(module, "inv_freq", None)
    if isinstance(frequencies, Tensor) and frequencies.is_meta and hasattr(module, "rope_init_fn"):
        module.inv_freq, module.attention_scaling = module.rope_init_fn(module.config, device)
        module.original_inv_freq = module.inv_freq


def model_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json: rope_parameters becomes rope_theta and rope_scaling, dtype becomes torch_dtype.

    rope_parameters would be ignored, and the model would silently compute with the default rotary embedding.

    Raises:
        QuantizationError: ModelUnsupported for rotary parameters that differ by layer type.
    """
    older = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
    if "dtype" in config:
        older.setdefault("torch_dtype", config["dtype"])
    rope = config.get("rope_parameters")
    if rope is None:
        return older
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            "config.json has rope_parameters for each layer type, which the transformers of this image "
            "does not support",
            "Use implementation: native.",
        )
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    if "rope_theta" in rope:
        older["rope_theta"] = rope["rope_theta"]
    older["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return older


def tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json of a model with a tokenizer.json.

    Version 5 takes the tokenizer.json as it is. Version 4 does so in its class PreTrainedTokenizerFast only;
    LlamaTokenizerFast, for one, puts a BOS token before every text, whatever the file says, and the same text
    would calibrate on other tokens than with implementation native. A list of extra_special_tokens, which
    version 4 stops at, becomes additional_special_tokens.
    """
    older = dict(config)
    if isinstance(older.get("extra_special_tokens"), list):
        extra = older.pop("extra_special_tokens")
        if extra:
            older.setdefault("additional_special_tokens", extra)
    return older | {"tokenizer_class": "PreTrainedTokenizerFast"}


TRANSLATED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "config.json": model_config,
    "tokenizer_config.json": tokenizer_config,
}


class OlderConfigs:
    """A source whose configs are translated; every other file is the source's own."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._translated: dict[str, bytes] = {}

    def list(self) -> dict[str, int]:
        """Every file with its size, as read here."""
        files = self._source.list()
        return files | {name: len(self._translation(name)) for name in self._translated_names(files)}

    def read(self, name: str, start: int, length: int) -> Buffer:
        """Exactly `length` bytes of a file from offset `start`."""
        if name in self._translated_names(self._source.list()):
            return self._translation(name)[start : start + length]
        return self._source.read(name, start, length)

    def _translated_names(self, files: dict[str, int]) -> set[str]:
        """Without a tokenizer.json the class that tokenizer_config.json names has to make one."""
        needed = {"config.json": "config.json", "tokenizer_config.json": "tokenizer.json"}
        return {name for name in TRANSLATED if name in files and needed[name] in files}

    def _translation(self, name: str) -> bytes:
        """Bytes that are not a JSON object are passed through: their reader reports that best."""
        if name not in self._translated:
            data = read_whole(self._source, name)
            try:
                config = json.loads(data)
            except ValueError:
                config = None
            known = isinstance(config, dict)
            self._translated[name] = json.dumps(TRANSLATED[name](config)).encode() if known else data
        return self._translated[name]
