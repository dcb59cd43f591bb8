"""Checkpoints in FP8 and MXFP4 are read as transformers loads them with dequantize=True, compressed-tensors too."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import save_tiny
from tests.support.quantized_inputs import random_mxfp4, store_in_fp8
from tests.support.reference import interpreter_from, run_reference
from transformers import GptOssConfig, GptOssForCausalLM

from quantizer.checkpoint.dequantized import open_checkpoint
from quantizer.checkpoint.source import DirectorySource

pytestmark = pytest.mark.e2e

READERS = "QUANTIZATION_READER_PYTHON"
KINDS = ("fp8, whole tensors", "fp8, blocks", "compressed-tensors, rows", "compressed-tensors, blocks")


def save_gpt_oss(folder: Path) -> None:
    """A tiny gpt-oss whose experts are in MXFP4, as its checkpoints have them."""
    config = GptOssConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        dtype="bfloat16",
    )  # fmt: skip
    GptOssForCausalLM(config).bfloat16().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [key for key in tensors if key.endswith("_proj") and "experts" in key]:
        experts, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = random_mxfp4(experts, outputs, inputs // 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "mxfp4"}
    }
    (folder / "config.json").write_text(json.dumps(said))


def test_every_weight_is_the_one_that_transformers_loads(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(KINDS) + 1)]
    for folder, kind in zip(folders, KINDS, strict=False):
        save_tiny(folder, tie_word_embeddings=False)
        store_in_fp8(folder, kind)
    save_gpt_oss(folders[-1])
    answers = run_reference(
        interpreter_from(READERS), "quantized_input_reader.py", [str(one) for one in folders], tmp_path
    )
    for folder, theirs in zip(folders, answers, strict=True):
        reader, _ = open_checkpoint(DirectorySource(folder), json.loads((folder / "config.json").read_text()))
        assert set(reader.tensors) == set(theirs)
        for name, weight in theirs.items():
            ours = reader.tensor(name)
            assert ours.dtype is weight.dtype, name
            assert torch.equal(ours, weight), name
