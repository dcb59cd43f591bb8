"""A tiny Llama whose head is quantized too, in the ways that other software is asked to read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tests.support.engine import gptq_pass, run_layers, save_tiny
from tests.support.quantized_models import save_tokenizer, to_half

from quantization_api.passes import GptqQuantizer
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes.making import weight_pass
from quantizer.passes.weight_pass import WeightPass

SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "initializer_range": 0.05,
}
"""The least that the kernels of servers divide."""
MIXED = {"candidate_bits": [4], "candidate_group_sizes": [32, -1], "target_bits": 4.3}


def _head(**parameters: Any) -> GptqQuantizer:
    groups = {} if "candidate_group_sizes" in parameters else {"group_size": 32}
    return gptq_pass(**{"sym": True, "lm_head": True, **groups, **parameters})


def _tensors(**parameters: Any) -> GptqQuantizer:
    return _head(checkpoint_format="compressed-tensors", **parameters)


HEAD_CASES: dict[str, GptqQuantizer] = {
    "gptq": _head(),
    "gptq, asymmetric": _head(sym=False),
    "gptq, bits chosen": _head(target_bits=4.2, candidate_bits=[3, 4]),
    "gptq, groups chosen": _head(**MIXED),
    "gptq_v2": _head(sym=False, checkpoint_format="gptq_v2"),
    "compressed-tensors": _tensors(),
    "compressed-tensors, asymmetric": _tensors(sym=False),
    "compressed-tensors, bits chosen": _tensors(target_bits=4.2, candidate_bits=[3, 4]),
    "compressed-tensors, groups chosen": _tensors(**MIXED),
}


def chosen_pass(name: str) -> WeightPass[Any]:
    """What rounds the weights of a case."""
    return weight_pass(HEAD_CASES[name])


def some_tokens(sequences: int, length: int) -> torch.Tensor:
    """Random tokens [sequences, length]."""
    generator = torch.Generator().manual_seed(sequences)
    return torch.randint(0, SIZES["vocab_size"], (sequences, length), generator=generator)  # type: ignore[call-overload,no-any-return]


def quantize_heads(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Quantizes the model in these ways; where each checkpoint is."""
    model = folder / "model"
    save_tiny(model, **SIZES)
    to_half(model)
    save_tokenizer(model)
    paths = {name: folder / str(number) for number, name in enumerate(names)}
    tokens = TokenBatches(tuple(some_tokens(16, 64)))
    for name, path in paths.items():
        run_layers(DirectorySource(model), tokens, chosen_pass(name).layer_pass, path, folder / "scratch")
    return paths
