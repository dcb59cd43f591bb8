"""Which files of a folder hold the weights of its model; a folder that leaves that open is refused."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quantization_api.failures import Category, QuantizationError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ADAPTER_NAMES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
"""Files of a PEFT adapter; where peft is installed, transformers looks for them beside every model."""
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
OTHER_WEIGHTS = re.compile(r"(.*\.(safetensors|pth|gguf)|pytorch_model.*\.bin|adapter_model\.bin)")
NAMED = 5
MERGE = "Merge the adapter into its base model (merge_and_unload of peft) and save that with save_pretrained."


@dataclass(frozen=True)
class WeightFiles:
    """The files that are read."""

    files: tuple[str, ...]
    index: Mapping[str, str]
    """Tensor -> the file that the index says it is in; empty without an index."""


def single_file(names: Iterable[str]) -> WeightFiles:
    """The weights of a folder without an index.

    Args:
        names: of all files.

    Raises:
        QuantizationError: ModelNotFound without any weights; ModelUnsupported where they are something else, or more
            than one set.
    """
    found = sorted(names)
    shards = [name for name in found if SHARD.fullmatch(name)]
    if SINGLE_NAME in found and not shards:
        return WeightFiles((SINGLE_NAME,), {})
    if SINGLE_NAME in found:
        raise _two_sets(f"{', '.join(shards[:NAMED])}, which no {INDEX_NAME} names")
    others = [name for name in found if name.endswith((".bin", ".pth", ".gguf", ".safetensors"))]
    if not others:
        raise QuantizationError(
            Category.MODEL_NOT_FOUND,
            f"the model has no {SINGLE_NAME} and no {INDEX_NAME}; found: {', '.join(found[:NAMED]) or 'no files'}",
        )
    raise QuantizationError(
        Category.MODEL_UNSUPPORTED,
        f"the model has neither {SINGLE_NAME} nor {INDEX_NAME}; it has {', '.join(others[:NAMED])}",
        _instead(shards, others),
    )


def indexed_files(names: Iterable[str], index: Mapping[str, str]) -> WeightFiles:
    """The weights of a folder with an index.

    Args:
        names: of all files.
        index: tensor -> file, as the index says.

    Raises:
        QuantizationError: ModelNotFound for a file that is not there; ModelUnsupported where the folder has
            another set of weights, which some readers take instead.
    """
    found, wanted = set(names), sorted(set(index.values()))
    if missing := [name for name in wanted if name not in found]:
        raise QuantizationError(
            Category.MODEL_NOT_FOUND,
            f"{INDEX_NAME} names {', '.join(missing[:NAMED])}, which the model does not have",
            "Upload the missing files.",
        )
    if SINGLE_NAME in found and SINGLE_NAME not in wanted:
        raise _two_sets(f"{', '.join(wanted[:NAMED])}, which {INDEX_NAME} names")
    return WeightFiles(tuple(wanted), dict(index))


def adapter_files(names: Iterable[str]) -> list[str]:
    """The files of an adapter that lies in the folder of a model."""
    return sorted(set(ADAPTER_NAMES) & set(names))


def unread_weights(names: Iterable[str], read: Iterable[str]) -> list[str]:
    """Weights in the folder itself that are neither read nor an adapter's."""
    left = set(names) - set(read) - set(ADAPTER_NAMES)
    return sorted(name for name in left if "/" not in name and OTHER_WEIGHTS.fullmatch(name))


def _two_sets(others: str) -> QuantizationError:
    return QuantizationError(
        Category.MODEL_UNSUPPORTED,
        f"the model has two sets of weights: {SINGLE_NAME}, and {others}; transformers reads the first, other "
        "software the second",
        "Remove the set that is not meant, with its index.",
    )


def _instead(shards: list[str], others: list[str]) -> str:
    if shards:
        return f"Upload {INDEX_NAME} too: it says which files belong to the model."
    if adapter_files(others):
        return MERGE
    return "Save the model again with save_pretrained of transformers, which writes safetensors."
