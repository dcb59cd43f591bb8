"""Rotations of models that are not in the table of architectures: the residual stream is found, and tried."""

from pathlib import Path

import pytest
import torch
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import FAMILIES, make_model, relative
from tests.support.engine import run_layers
from tests.support.quantized_models import family_batches, transformers_logits
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.passes import found_rotations
from quantizer.passes.found_rotations import FoundRotation
from quantizer.passes.norm_kinds import norm_kind
from quantizer.passes.quarot_layers import QuarotLayerPass
from quantizer.passes.rotation_layouts import Layouts
from quantizer.passes.rotation_trial import CPU, LayerTrial

pytestmark = pytest.mark.unit

KINDS = {
    "a norm that multiplies by one more": "gemma",
    "one norm for attention and MLP, and a head with a bias": "phi",
    "norms that have no weight": "olmo",
    "a state-space mixer in some layers": "bamba",
    "norms that subtract the mean, and stored positions": "biogpt",
    "latent attention": "minicpm3",
    "outputs that are multiplied": "granite",
    "a norm that subtracts the mean and multiplies by one more": "nemotron",
    "what a norm makes, multiplied": "falcon_h1",
    "a vector of no linear that is added": "gpt_neox_japanese",
    "a linear between the last norm and the head": "megatron-bert",
}
EVERY_TIME = (
    "a norm that multiplies by one more",
    "norms that have no weight",
    "a state-space mixer in some layers",
    "a norm that subtracts the mean and multiplies by one more",
    "a vector of no linear that is added",
    "a linear between the last norm and the head",
)
REFUSED = {
    "axk2": "input_layernorm.W_up is a factor of what input_layernorm.norm makes, channel by channel",
    "bert": "attention.output.LayerNorm scales the residual stream",
    "olmo2": "post_attention_layernorm scales the residual stream",
    "flex_olmo": "post_attention_layernorm scales the residual stream",
    "kolibri1": "post_attn_norm scales the residual stream",
    "minimax": "input_layernorm scales the residual stream",
    "rwkv": "feed_forward.receptance scales the residual stream",
    "ctrl": "transformer.pos_encoding is added to the embeddings; its class computes it",
    "xglm": "model.embed_positions.weights is added to the embeddings; its class computes it",
}
"""Type -> the module that forbids it."""


def rotate(folder: Path, modules: ModuleNames | None = None) -> None:
    """Rotations alone, in float32."""
    run_layers(
        DirectorySource(folder / "model"),
        family_batches(),
        QuarotLayerPass(QuarotParameters(), torch.float32),
        folder / "out",
        folder / "scratch",
        modules=modules,
    )


@pytest.mark.filterwarnings("ignore")  # classes of transformers warn of what they are given
@pytest.mark.parametrize("kind", mostly_nightly(KINDS, EVERY_TIME))
def test_a_found_stream_is_rotated_and_the_function_stays(kind: str, tmp_path: Path) -> None:
    small_model(KINDS[kind]).save_pretrained(tmp_path / "model")
    rotate(tmp_path)
    tokens = family_batches(4, seed=4).batches()[0]
    plain, turned = (transformers_logits(tmp_path / name, tokens) for name in ("model", "out"))
    assert relative(turned, plain) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", mostly_nightly(REFUSED, ("olmo2", "kolibri1", "rwkv", "ctrl")))
def test_a_stream_that_cannot_be_rotated_is_refused_with_the_module_that_forbids_it(
    model_type: str, tmp_path: Path
) -> None:
    small_model(model_type).save_pretrained(tmp_path / "model")
    with pytest.raises(QuantizationError) as caught:
        rotate(tmp_path)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert REFUSED[model_type] in caught.value.message


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox, parallel"])
def test_what_is_found_is_what_the_table_says(name: str, tmp_path: Path) -> None:
    make_model(*FAMILIES[name]).save_pretrained(tmp_path)
    known = DecoderLayout.open(DirectorySource(tmp_path))
    stages = tuple(shared.names for stage in known.stages() for shared in stage.shared_inputs)
    by_hand = DecoderLayout.open(DirectorySource(tmp_path), ModuleNames(None, stages))
    table, found = Layouts(known), FoundRotation(by_hand)
    assert found.model.obstacle is None
    assert found.model.tables == table.model.tables
    assert found.model.final_norm == table.model.final_norm
    for index in range(known.layers):
        assert found.layers[index].norms == table.layer(index).norms
        assert set(found.layers[index].writers) == set(table.layer(index).writers)
        assert found.layers[index].attention == table.layer(index).attention


def test_kinds_of_norms_are_told_by_what_they_make() -> None:
    assert norm_kind(LlamaRMSNorm(32), 32) == "rms"
    assert norm_kind(GemmaRMSNorm(32), 32) == "rms_plus_one"
    assert norm_kind(nn.LayerNorm(32), 32) == "layer"
    assert norm_kind(NemotronLayerNorm1P(32), 32) == "layer_plus_one"
    assert norm_kind(nn.BatchNorm1d(32).eval(), 32) is None
    assert norm_kind(LlamaRMSNorm(8), 32) is None


def test_layers_with_experts_that_are_alike_are_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_model("deepseek_v3", num_hidden_layers=5).save_pretrained(tmp_path)
    tried = []

    class Counted(LayerTrial):
        def __init__(self, model: DecoderModel, index: int) -> None:
            super().__init__(model, index)
            tried.append(index)

    monkeypatch.setattr(found_rotations, "LayerTrial", Counted)
    assert FoundRotation(DecoderLayout.open(DirectorySource(tmp_path))).model.obstacle is None
    assert tried == [0, 1]  # the first one is dense


def test_what_is_tried_of_a_large_layer_is_small(tmp_path: Path) -> None:
    small_model("granite", hidden_size=256, intermediate_size=4096, head_dim=64).save_pretrained(tmp_path)
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    whole = sum(rows * columns for rows, columns in layout.linear_shapes().values())
    tried = LayerTrial(DecoderModel(layout, CPU), 0).weights.values()
    assert sum(value.numel() for value in tried) < whole / 20
    assert FoundRotation(layout).model.obstacle is None
