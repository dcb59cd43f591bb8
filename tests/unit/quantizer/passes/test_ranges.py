"""What a manifest says of the ranges before a rotation and after it is what the two models have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import (
    edit_tensors,
    gptq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import GROUP, family_batches, save_family
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from quantization_api.manifest import LayerRanges
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource

pytestmark = pytest.mark.unit

OUTLIER = 40.0
READERS = {"llama": ("q_proj", "gate_proj"), "opt": ("q_proj", "fc1")}
"""Linears that read the two inputs of a layer that come from norms."""


def with_outlier(model: Path) -> None:
    """One channel of what the first layer's attention reads is much larger than the others."""

    def edit(tensors: dict[str, Tensor]) -> None:
        norm = next(
            name
            for name in tensors
            if "layers.0." in name
            and name.endswith(("input_layernorm.weight", "self_attn_layer_norm.weight"))
        )
        tensors[norm][5] = OUTLIER

    edit_tensors(model, edit)


def ratio(values: Tensor) -> float:
    return float(values.abs().max() / values.double().square().mean().sqrt())


def ranges(model: Path, tokens: TokenBatches, folder: Path, rotation: Any, *rest: Any) -> list[LayerRanges]:
    source, layer_pass = DirectorySource(model), make_pass(rotation, *rest)
    report = run_layers(source, tokens, layer_pass, folder / "out", folder / "scratch", dtype=torch.float32)
    return report.ranges


@pytest.mark.parametrize("family", READERS)
def test_inputs_and_weights_before_are_those_of_the_model_as_it_was(family: str, tmp_path: Path) -> None:
    save_family(family, tmp_path / "model")
    with_outlier(tmp_path / "model")
    tokens = family_batches()
    rotation = quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None, input_model_dtype="fp32")
    found = ranges(tmp_path / "model", tokens, tmp_path, rotation, gptq_pass(group_size=GROUP))[0]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: seen.setdefault(name, []).append(inputs[0].reshape(-1, inputs[0].shape[-1]))

    layer = next(module for name, module in model.named_modules() if name.endswith("layers.0"))
    for name, module in layer.named_modules():
        if name.endswith(READERS[family]):
            module.register_forward_pre_hook(watch(name))
    with torch.inference_mode():
        model(torch.stack(tokens.sequences))
    ratios = {name: ratio(torch.cat(parts)) for name, parts in seen.items()}

    before, after = found.inputs_before, found.inputs_after
    assert before is not None
    assert after is not None
    assert before.name.endswith("q_proj")
    assert before.largest / before.rms == pytest.approx(max(ratios.values()), rel=1e-4)
    assert after.largest / after.rms < 0.8 * before.largest / before.rms
    weights = dict(layer.named_parameters())[f"{found.weights_before.name}.weight"].detach()
    assert found.weights_before.largest / found.weights_before.rms == pytest.approx(ratio(weights), rel=1e-5)
    assert found.weights_after != found.weights_before


def test_only_rotated_layers_have_ranges_and_inputs_only_where_text_is_read(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    model, tokens = tmp_path / "model", random_batches()
    assert ranges(model, tokens, tmp_path, gptq_pass(group_size=32)) == []
    assert ranges(model, tokens, tmp_path, quarot_pass(rotate=False)) == []
    rounded = quarot_pass(w_gptq=False, w_rtn=True, calibration_data_config=None)
    alone = ranges(model, tokens, tmp_path, rounded)
    assert [one.layer for one in alone] == [0, 1]
    assert all(one.inputs_before is None and one.inputs_after is None for one in alone)
