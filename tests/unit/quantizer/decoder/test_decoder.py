"""The decoder, layer by layer, against transformers' own forward pass; and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import CPU, STORIES, random_batches, save_checkpoint, save_tiny
from torch import Tensor
from transformers import LlamaForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.extra import Extra
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel

pytestmark = pytest.mark.unit


def open_model(folder: Path) -> DecoderModel:
    source = DirectorySource(folder)
    return DecoderModel(DecoderLayout.open(source), CPU)


def our_logits(model: DecoderModel, tokens: Tensor) -> Tensor:
    names = list(model.layout.layer_shapes())
    with torch.inference_mode():
        hidden = next(model.embed([tokens]))
        for index in range(model.layout.layers):
            prefix = model.layout.layer_prefix(index)
            layer = model.layer(index, {name: model.layout.reader.tensor(prefix + name) for name in names})
            hidden = layer.forward(hidden)
        read = model.final(hidden)
        slices = model.table_slices(model.layout.head_name(), step=7)
        return torch.cat([model.logits(read, first, rows) for first, rows in slices], dim=-1)


VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32},
    "llama 3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = save_tiny(tmp_path, **VARIANTS[name])
    tokens = torch.stack(random_batches(3, 40).sequences)
    model = open_model(tmp_path)
    assert model.layout.check_tensors() == Extra()
    with torch.inference_mode():
        expected = theirs(tokens).logits
    assert torch.allclose(our_logits(model, tokens), expected, atol=1e-5)


def test_a_config_in_the_words_of_older_releases_means_the_same(tmp_path: Path) -> None:
    theirs = save_tiny(
        tmp_path, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 20000.0}
    )
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = torch.stack(random_batches(2, 40).sequences)
    with torch.inference_mode():
        expected = theirs(tokens).logits
    assert torch.allclose(our_logits(open_model(tmp_path), tokens), expected, atol=1e-5)


def test_the_example_models_logits_are_those_of_transformers() -> None:
    tokens = torch.arange(2, 200).view(2, 99) * 31
    theirs = LlamaForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    with torch.inference_mode():
        expected = theirs(tokens).logits
    assert torch.allclose(our_logits(open_model(STORIES), tokens), expected, atol=1e-4)


def test_models_that_share_a_layout_leave_each_other_alone(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    tokens = random_batches().batches()[0]
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    first, coarse = DecoderModel(layout, CPU), DecoderModel(layout, CPU, torch.bfloat16)
    expected = our_logits(first, tokens)
    rounded = our_logits(coarse, tokens)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - expected).abs().max() < 0.1 * expected.abs().max()
    assert torch.equal(our_logits(first, tokens), expected)
    assert all(value.is_meta for value in layout.skeleton.causal.parameters())


def test_llamas_stages_are_the_linears_of_a_layer_in_execution_order(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    stages = DecoderLayout.open(DirectorySource(tmp_path)).stages()
    assert tuple(stage.names for stage in stages) == (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )


Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


def other_architecture(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    config |= {"model_type": "nobodys", "architectures": ["NobodysForCausalLM"]}


def no_model_type(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    del config["model_type"]


def classifier(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    config["architectures"] = ["LlamaForSequenceClassification"]


def already_quantized(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    config["quantization_config"] = {"quant_method": "awq"}


def eight_bit_float(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def integer_weights(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)


def lost_tensor(_: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.1.self_attn.k_proj.weight"]


def lost_layer(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    config["num_hidden_layers"] = 3


def too_many_layers(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    config["num_hidden_layers"] = 1


def other_shape(config: dict[str, Any], _: dict[str, Tensor]) -> None:
    config["intermediate_size"] = 256


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            other_architecture,
            r"model_type 'nobodys' \(architectures \['NobodysForCausalLM'\]\), which .* not know",
        ),
        (no_model_type, "model_type None"),
        (
            classifier,
            r"\['LlamaForSequenceClassification'\] \(model_type 'llama'\); only causal language models",
        ),
        (already_quantized, r"already quantized \(quant_method awq\)"),
        (eight_bit_float, "layers.1.mlp.up_proj.weight has dtype float8_e4m3fn; supported: float32, float16"),
        (integer_weights, "lm_head.weight has dtype int8; supported"),
        (lost_tensor, "lacks the tensor model.layers.1.self_attn.k_proj.weight"),
        (lost_layer, "lacks the tensor model.layers.2."),
        (
            too_many_layers,
            "config.json says 1 layers, but the checkpoint has 2",
        ),
        (other_shape, r"gate_proj.weight has shape \[128, 64\], config.json makes it \[256, 64\]"),
    ],
)
def test_what_is_not_supported_is_refused_with_what_was_found(
    change: Change, sentence: str, tmp_path: Path
) -> None:
    model = save_tiny(tmp_path / "in")
    config = json.loads((tmp_path / "in/config.json").read_text())
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(config, tensors)
    save_checkpoint(tmp_path / "out", config, tensors)
    with pytest.raises(QuantizationError, match=sentence) as caught:
        open_model(tmp_path / "out")
    assert caught.value.category is Category.MODEL_UNSUPPORTED


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_config_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(QuantizationError, match=r"config.json") as caught:
        open_model(tmp_path)
    assert caught.value.category is Category.MODEL_UNSUPPORTED


def test_a_model_without_a_config_is_not_found(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(QuantizationError, match=r"the model has no config.json") as caught:
        open_model(tmp_path)
    assert caught.value.category is Category.MODEL_NOT_FOUND


def test_frequencies_that_old_checkpoints_store_are_left_out(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "in")
    config = json.loads((tmp_path / "in/config.json").read_text())
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_checkpoint(tmp_path / "out", config, {**model.state_dict(), name: torch.ones(8)})
    assert open_model(tmp_path / "out").layout.check_tensors() == Extra((name,))


def test_activations_come_back_from_their_file_which_is_removed(tmp_path: Path) -> None:
    shapes = [(2, 3), (1, 5)]
    values = [torch.randn(*shape, 4) for shape in shapes]
    with ActivationStore(tmp_path / "file", shapes, 4, torch.float32, CPU) as store:
        for number in (1, 0):
            store.write(number, values[number])
        store.write(0, values[0] + 1)
        assert torch.equal(store.read(0), values[0] + 1)
        assert torch.equal(store.read(1), values[1])
        with pytest.raises(ValueError, match="announced"):
            store.write(0, values[1])
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_stays_for_the_next_store_which_never_reads_what_it_did_not_write(
    tmp_path: Path,
) -> None:
    def store() -> ActivationStore:
        return ActivationStore(tmp_path / "file", [(1, 2), (1, 2)], 4, torch.float32, CPU, keep_below=65)

    with store() as first:
        for number in (0, 1):
            first.write(number, torch.ones(1, 2, 4))
    assert (tmp_path / "file").exists()
    with store() as second:
        second.write(1, torch.zeros(1, 2, 4))
        assert torch.equal(second.read(1), torch.zeros(1, 2, 4))
        with pytest.raises(ValueError, match="batch 0 was never written"):
            second.read(0)
    with ActivationStore(tmp_path / "file", [(1, 4)], 4, torch.float32, CPU, keep_below=64):
        pass
    assert not (tmp_path / "file").exists()
