"""The gate of a shared expert is a linear that no format packs: configs that can name it say so."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import awq_pass, gptq_pass, make_pass, run_layers
from tests.support.quantized_models import GROUP, family_batches, save_family

from quantizer.checkpoint.source import DirectorySource
from quantizer.passes.interface import LayerPass

pytestmark = pytest.mark.unit

GATES = [f"model.layers.{layer}.mlp.shared_expert_gate" for layer in (0, 2)]
"""Layer 1 of the case has no experts."""
ROUTERS = [f"model.layers.{layer}.mlp.gate" for layer in (0, 2)]
"""They are linears in vLLM, which packs all that it is not told to leave."""


def quantization(folder: Path, layer_pass: LayerPass) -> dict[str, Any]:
    save_family("qwen2_moe", folder / "model")
    source = DirectorySource(folder / "model")
    run_layers(source, family_batches(), layer_pass, folder / "out", folder / "scratch")
    said: dict[str, Any] = json.loads((folder / "out/config.json").read_text())["quantization_config"]
    return said


def test_compressed_tensors_name_it(tmp_path: Path) -> None:
    said = quantization(
        tmp_path, make_pass(gptq_pass(group_size=GROUP, checkpoint_format="compressed-tensors"))
    )
    assert said["ignore"] == [GATES[0], ROUTERS[0], GATES[1], ROUTERS[1], "lm_head"]


def test_awq_names_it(tmp_path: Path) -> None:
    said = quantization(tmp_path, make_pass(awq_pass(q_group_size=GROUP)))
    assert said["modules_to_not_convert"] == [*GATES]


def test_gptq_has_no_word_for_it_and_its_readers_know(tmp_path: Path) -> None:
    assert "ignore" not in quantization(tmp_path, make_pass(gptq_pass(group_size=GROUP)))
