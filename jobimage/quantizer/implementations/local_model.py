"""The whole model, which the packages need: as files on scratch, and in memory on transformers 4."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.older_transformers import model_config
from quantizer.checkpoint.side_files import side_files
from quantizer.checkpoint.source import Source
from quantizer.checkpoint.weight_files import INDEX_NAME
from quantizer.checkpoint.writer import scratch_errors

BLOCK_BYTES = 16_000_000


def copy_model(source: Source, weights: Iterable[str], target: Path) -> Path:
    """Copies weights, configs and tokenizer of a model into a new directory, and returns it.

    weights: the files that hold the model's tensors; others that lie beside them are left alone.

    Raises:
        QuantizationError: ScratchFull, with the size that is needed; and what the source raises.
    """
    files = source.list()
    names = sorted({*weights, "config.json", INDEX_NAME, *side_files(source)} & set(files))
    target.mkdir(parents=True)
    try:
        with scratch_errors():
            for name in names:
                _copy_file(source, name, files[name], target / name)
    except QuantizationError as error:
        if error.category is not Category.SCRATCH_FULL:
            raise
        gigabytes = sum(files[name] for name in names) / 1e9
        raise QuantizationError(
            Category.SCRATCH_FULL,
            f"the model does not fit on scratch: the package needs a copy of {gigabytes:.2f} GB there, "
            "and room for the result",
            "Make room on scratch (spec.template.scratchSize, or --scratch DIR), or use implementation native, "
            "which needs no copy.",
        ) from error
    return target


def _copy_file(source: Source, name: str, size: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, size, BLOCK_BYTES):
            file.write(source.read(name, start, min(BLOCK_BYTES, size - start)))


def read_config(model_dir: Path) -> dict[str, Any]:
    """config.json as it lies there; it was read before, when the model was checked."""
    config: dict[str, Any] = json.loads((model_dir / "config.json").read_bytes())
    return config


def load(model_dir: Path, dtype: torch.dtype) -> nn.Module:
    """The model in memory, on the CPU. Code of the model is never run."""
    fields = model_config(read_config(model_dir))
    config = AutoConfig.for_model(**{**fields, "use_cache": False})
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        model_dir,
        config=config,
        torch_dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.requires_grad_(False).eval()


def check_attention(layers: nn.ModuleList) -> None:
    """Raises ModelUnsupported for layers of several kinds: a package gives all of them the mask of the first."""
    kinds = list(dict.fromkeys(str(getattr(layer, "attention_type", "")) for layer in layers))
    if len(kinds) > 1:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"the model's layers have several kinds of attention ({', '.join(kinds)}); the package calibrates all of "
            "them like the first",
            "Use implementation native.",
        )


def check_sizes(linears: dict[str, nn.Linear], group_size: int, multiple: int) -> None:
    """Raises when a group or a packed word does not fit a linear; a package would fail later, or in silence.

    Args:
        linears: by name. group_size: inputs of a group, -1 for all. multiple: of inputs and outputs.

    Raises:
        QuantizationError: InvalidWorkflow (group_size), ModelUnsupported (words).
    """
    for name, linear in linears.items():
        if group_size != -1 and linear.in_features % group_size:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"the group size {group_size} does not divide the {linear.in_features} inputs of {name}",
                "Choose a group size that divides the inputs of every linear.",
            )
        for what, size in (("inputs", linear.in_features), ("outputs", linear.out_features)):
            if size % multiple:
                raise QuantizationError(
                    Category.MODEL_UNSUPPORTED,
                    f"{name} has {size} {what}; the package packs multiples of {multiple} only",
                    "Use implementation native.",
                )
