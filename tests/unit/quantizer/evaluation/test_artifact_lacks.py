"""An artifact that lacks a tensor is corrupt, and says which; none is taken for something else or made up."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.support.engine import CPU, gptq_pass, make_pass, quarot_pass, random_batches, run_layers, save_tiny

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view

pytestmark = pytest.mark.unit

GROUP = 16
PASSES = {
    "packed": make_pass(gptq_pass(group_size=GROUP)),
    "code of its own": make_pass(quarot_pass(w_groupsize=GROUP, a_bits=8)),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", PASSES)
def test_a_tensor_that_is_missing_beside_the_layers_is_named(kind: str, tied: bool, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=tied)
    source, out = DirectorySource(tmp_path / "model"), tmp_path / "out"
    run_layers(source, random_batches(), PASSES[kind], out, tmp_path / "scratch")
    whole = load_file(out / "model.safetensors")
    beside = [name for name in whole if not name.startswith("model.layers.")]
    unties = kind == "code of its own"  # a rotated head is no longer the embedding
    head = {"lm_head.weight"} if unties or not tied else set()
    assert set(beside) == {"model.embed_tokens.weight", "model.norm.weight"} | head
    open_view(DirectorySource(out), CPU)
    for name in beside:
        rest = {key: tensor for key, tensor in whole.items() if key != name}
        save_file(rest, out / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(QuantizationError, match=f"lacks the tensor {name}$") as caught:
            open_view(DirectorySource(out), CPU)
        assert caught.value.category is Category.ARTIFACT_CORRUPT
        save_file({**rest, name: whole[name][:-1].clone()}, out / "model.safetensors")
        with pytest.raises(QuantizationError, match=f"{name} has shape") as caught:
            open_view(DirectorySource(out), CPU)
        assert caught.value.category is Category.ARTIFACT_CORRUPT
