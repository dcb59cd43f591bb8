"""Names and layouts of real checkpoints: without the model's prefix, transposed, experts apart, old buffers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.decoder_families import (
    CASES,
    FAMILIES,
    layer_weights,
    make_model,
    open_model,
    relative,
    theirs,
    token_batches,
)
from tests.support.engine import save_checkpoint
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.blocks import BlockLayer
from quantizer.decoder.extra import Extra

pytestmark = pytest.mark.unit


def saved(folder: Path, name: str) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
    """A family's random model, its config.json and its tensors as transformers writes them."""
    model_type, fields = FAMILIES[name]
    model = make_model(model_type, fields)
    model.save_pretrained(folder)
    return model, json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["gpt2", "bloom", "gpt_neox, parallel", "llama, tied, biases"])
def test_a_checkpoint_of_the_model_without_its_head_has_names_without_the_prefix(
    name: str, tmp_path: Path
) -> None:
    whole, config, tensors = saved(tmp_path / "in", name)
    prefix = f"{whole.base_model_prefix}."
    bare = {key.removeprefix(prefix): value for key, value in tensors.items()}
    assert bare.keys() != tensors.keys()
    save_checkpoint(tmp_path / "out", config, bare)
    model = open_model(tmp_path / "out")
    assert model.layout.check_tensors() == Extra()
    assert not model.layout.layer_prefix(0).startswith(prefix)
    batch = token_batches()[0]
    states, logits = theirs(whole, [batch])
    with torch.inference_mode():
        hidden = next(model.embed([batch]))
        for index in range(model.layout.layers):
            hidden = model.layer(index, layer_weights(model, index)).forward(hidden)
        head = model.layout.reader.tensor(model.layout.head_name())
        assert relative(model.logits(model.final(hidden), 0, head), logits[0]) < 1e-5
    assert relative(hidden, states[0][-1]) < 1e-5


def test_the_causal_masks_that_old_gpt2_checkpoints_hold_are_left_out(tmp_path: Path) -> None:
    _, config, tensors = saved(tmp_path / "in", "gpt2")
    name = "transformer.h.1.attn.bias"
    save_checkpoint(tmp_path / "out", config, {**tensors, name: torch.ones(1, 1, 64, 64)})
    assert open_model(tmp_path / "out").layout.check_tensors() == Extra((name,))


def test_gpt2s_linears_are_turned_and_can_be_turned_back(tmp_path: Path) -> None:
    _, _, tensors = saved(tmp_path, "gpt2, scaled by layer")
    model = open_model(tmp_path)
    stored = tensors["transformer.h.0.mlp.c_fc.weight"]
    assert model.layout.layer_shapes(0)["mlp.c_fc.weight"] == tuple(stored.shape) == (32, 40)
    assert model.layout.linear_shapes(0)["mlp.c_fc"] == (40, 32)
    layer = model.layer(0, layer_weights(model, 0))
    weight = layer.linear("mlp.c_fc").weight
    assert torch.equal(weight, stored.t())
    assert torch.equal(model.layout.transposed(0, "mlp.c_fc.weight", weight), stored)
    assert torch.equal(model.layout.transposed(0, "ln_1.weight", stored), stored)


def test_layers_of_one_model_may_differ(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3_moe")
    model = open_model(tmp_path)
    kinds = ["mlp.down_proj" in model.layout.linears(index) for index in range(model.layout.layers)]
    assert kinds == [True, False, True, True]
    assert len(model.layout.stages(1)[2].shared_inputs) == len(model.layout.stages(1)[3].shared_inputs) == 5
    assert model.layout.stages(1)[2].shared_inputs[4].names == (
        "mlp.experts.4.gate_proj",
        "mlp.experts.4.up_proj",
    )
    assert "mlp.gate.weight" in model.layout.layer_shapes(1)
    assert "mlp.gate" not in model.layout.linears(1)


def test_an_expert_that_no_token_is_sent_to_hands_out_no_rows(tmp_path: Path) -> None:
    whole, config, tensors = saved(tmp_path / "in", "mixtral")
    router = "model.layers.0.block_sparse_moe.gate.weight"
    assert router in tensors
    tensors[router][1] = tensors[router][0]  # two equal scores: the first is taken, so of 0, 1, ...
    tensors[router][[0, 1, 2]] = tensors[router][[3, 3, 3]]  # ... all equal, only two are ever chosen
    save_checkpoint(tmp_path / "out", config, tensors)
    model = open_model(tmp_path / "out")
    layer = model.layer(0, layer_weights(model, 0))
    assert isinstance(layer, BlockLayer)
    hidden = torch.randn(2, 17, model.layout.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        running = layer.blocks[1]
        normed = running.normed(hidden)
        first = [len(inputs) for _, inputs, _ in running.inputs(normed, every_expert=False)]
        second = [
            len(inputs)
            for _, inputs, _ in running.output_inputs(hidden, running.core(normed), every_expert=False)
        ]
        assert first == second
        assert sum(first) == 2 * 2 * 17
        assert first.count(0) == 2
        whole.model.layers[0].mlp.gate.weight.copy_(tensors[router])
        expected = hidden + whole.model.layers[0].mlp(whole.model.layers[0].post_attention_layernorm(hidden))
        assert relative(running.close(hidden, hidden, running.core(normed)), expected) < 1e-5


def test_experts_in_one_fused_tensor_are_refused(tmp_path: Path) -> None:
    for name in ("mixtral", "qwen3_moe, all sparse, normalized"):
        whole, config, _ = saved(tmp_path / name / "in", name)
        fused = {key: value.contiguous() for key, value in whole.state_dict().items()}
        save_checkpoint(tmp_path / name / "out", config, fused)
        with pytest.raises(
            QuantizationError, match=r"fused tensor \(model\.layers\.0\.mlp\.experts\."
        ) as caught:
            open_model(tmp_path / name / "out")
        assert caught.value.category is Category.MODEL_UNSUPPORTED


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("llama", "num_hidden_layers"),
        ("bloom", "n_layer"),
        ("gptj", "n_layer"),
        ("phi, head with a bias", "num_hidden_layers"),
    ],
)
def test_a_model_of_one_layer_ends_as_transformers_does(name: str, layers: str, tmp_path: Path) -> None:
    """Whether its layers return tuples is learned from the second one, where there is one."""
    model_type, fields, modules = CASES[name]
    fields = {key: value for key, value in fields.items() if key not in ("num_hidden_layers", "n_layer")}
    whole = make_model(model_type, {**fields, layers: 1})
    whole.save_pretrained(tmp_path)
    model = open_model(tmp_path, modules)
    batch = token_batches()[0]
    _, logits = theirs(whole, [batch])
    with torch.inference_mode():
        hidden = model.layer(0, layer_weights(model, 0)).forward(next(model.embed([batch])))
        ours = model.logits(model.final(hidden), 0, model.layout.reader.tensor(model.layout.head_name()))
    assert relative(ours, logits[0]) < 1e-5
