"""QuaRot's rotations alone, without rounding, through the streaming loop: the function stays, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.decoder_families import FAMILIES
from tests.support.engine import edit_tensors, run_layers
from tests.support.quantized_models import (
    GROUP,
    family_batches,
    save_family,
    transformers_logits,
    view_logits,
)

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.families import ARCHITECTURES
from quantizer.evaluation.views import open_view
from quantizer.passes.quarot_layers import QuarotLayerPass

pytestmark = pytest.mark.unit

REFUSED = {
    "gemma2": "post_attention_layernorm scales what a block adds to the residual stream",
    "gemma3_text": "post_attention_layernorm scales what a block adds to the residual stream",
    "bloom": "word_embeddings_layernorm scales the embeddings",
}
"""Architectures whose residual stream cannot be rotated, and why."""
ROTATED = [name for name, (model_type, _) in FAMILIES.items() if model_type not in REFUSED]
KEPT = [name for name, (model_type, _) in FAMILIES.items() if model_type in REFUSED]
CPU = torch.device("cpu")


def run(folder: Path, **parameters: Any) -> None:
    """The pass over the model of the folder, in float32."""
    layer_pass = QuarotLayerPass(QuarotParameters(**parameters), torch.float32)
    run_layers(
        DirectorySource(folder / "model"), family_batches(), layer_pass, folder / "out", folder / "scratch"
    )


def check_function(folder: Path, tolerance: float = 1e-4) -> None:
    """Both readers of the result compute the logits of the model."""
    tokens = family_batches(4, seed=4).batches()[0]
    plain = transformers_logits(folder / "model", tokens)
    assert float(plain.abs().max()) > 2.0  # of ordinary size
    assert float((transformers_logits(folder / "out", tokens) - plain).abs().max()) < tolerance
    streamed = view_logits(open_view(DirectorySource(folder / "out"), CPU), tokens)
    assert float((streamed - plain).abs().max()) < tolerance


def check_rounding(folder: Path) -> None:
    """Eight bits move logits, and but a little; the median, for a router may send a token elsewhere."""
    tokens = family_batches(4, seed=4).batches()[0]
    plain = transformers_logits(folder / "model", tokens)
    seen = view_logits(open_view(DirectorySource(folder / "out"), CPU), tokens)
    assert 1e-6 < float((seen - plain).abs().median() / plain.abs().max()) < 0.01


def is_matrix(name: str) -> bool:
    """A linear, a table or the head; not the router's or a norm's vector."""
    return name.endswith(".weight") and "norm" not in name and "ln_" not in name


def test_the_table_has_a_model_here_of_every_architecture() -> None:
    assert {model_type for model_type, _ in FAMILIES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ROTATED)
def test_rotations_alone_leave_the_function_of_a_model_alone(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    run(tmp_path)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "out"))
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert not {key for key in same if is_matrix(key)}
    check_function(tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_channels_that_stand_out_are_spread_and_the_function_stays(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    embedding = "model.embed_tokens.weight" if name != "gpt2" else "transformer.wte.weight"

    def stand_out(tensors: dict[str, torch.Tensor]) -> None:
        tensors[embedding][:, 5] *= 30.0

    edit_tensors(tmp_path / "model", stand_out)
    run(tmp_path)
    rows = load_file(tmp_path / "out/model.safetensors")[embedding]
    assert float((rows.abs().amax(1) / rows.square().mean(1).sqrt()).median()) < 4.0  # of a lone outlier: 5.7
    check_function(tmp_path)


@pytest.mark.parametrize("name", KEPT)
def test_a_residual_stream_that_cannot_be_rotated_is_refused(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    with pytest.raises(QuantizationError) as caught:
        run(tmp_path)
    model_type = FAMILIES[name][0]
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert caught.value.message.startswith("rotate is true, but")
    assert REFUSED[model_type] in caught.value.message
    assert model_type in caught.value.message
    assert "rotate: false" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_rotated_is_rounded_without_rotation(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    run(tmp_path, rotate=False, w_rtn=True, w_bits=8, w_groupsize=GROUP)
    check_rounding(tmp_path)


@pytest.mark.parametrize("name", ROTATED)
def test_rotated_weights_of_eight_bits_compute_nearly_the_same(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    run(tmp_path, w_gptq=True, w_bits=8, w_groupsize=GROUP)
    check_rounding(tmp_path)


def test_a_config_of_an_artifact_with_its_own_code_says_so_and_nothing_of_a_format(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "model")
    run(tmp_path, w_rtn=True, w_bits=4, a_bits=8)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["quarot"]["a_bits"] == 8
    assert "quantization_config" not in config  # not even an empty one: readers look for its method
    assert not (tmp_path / "out/quantize_config.json").exists()
