"""Which tensor the head is, where config.json and the checkpoint disagree: what transformers takes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import (
    CPU,
    gptq_pass,
    ignore_progress,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from torch.nn import functional
from transformers import AutoModelForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.side_files import json_file
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout, read_config
from quantizer.evaluation.streamed import evaluate
from quantizer.run.remarks import remarks

pytestmark = pytest.mark.unit

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROTATION = {"w_gptq": False, "w_bits": 16, "calibration_data_config": None, "input_model_dtype": "fp32"}


def save_tied(target: Path, head: str) -> Path:
    """A tied config beside a head in the file: "other" numbers, the "same", or "only" the head and no embedding."""
    save_tiny(target, tie_word_embeddings=True, initializer_range=0.3)
    tensors = load_file(target / "model.safetensors")
    table = tensors[EMBEDDING]
    tensors[HEAD] = (table.flip(0) if head == "other" else table).clone()
    if head == "only":
        del tensors[EMBEDDING]
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def perplexity_of_transformers(model: Path) -> float:
    read = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = torch.stack(random_batches().sequences)
    with torch.inference_mode():
        logits = read(tokens).logits[:, :-1].flatten(0, 1).double()
    return float(functional.cross_entropy(logits, tokens[:, 1:].flatten()).exp())


def perplexity(model: Path, scratch: Path) -> float:
    layout = DecoderLayout.open(DirectorySource(model))
    return evaluate(layout, None, random_batches(), CPU, ignore_progress, scratch).perplexity


@pytest.mark.parametrize(("head", "tied"), [("other", False), ("same", True)])
def test_the_head_is_the_one_that_transformers_takes(head: str, tied: bool, tmp_path: Path) -> None:
    model = save_tied(tmp_path / "model", head)
    layout = DecoderLayout.open(DirectorySource(model))
    assert (layout.tied, layout.unties) == (tied, not tied)
    said = remarks(["config.json"], [], layout, copies_unused=True)
    assert any(f"{HEAD} has other values" in sentence for sentence in said) is not tied
    assert perplexity(model, tmp_path) == pytest.approx(perplexity_of_transformers(model), rel=1e-4)


@pytest.mark.parametrize("name", ["gptq", "rotation"])
def test_an_artifact_says_that_a_head_of_its_own_is_not_tied(name: str, tmp_path: Path) -> None:
    model = save_tied(tmp_path / "model", "other")
    parameters = quarot_pass(**ROTATION) if name == "rotation" else gptq_pass(group_size=32, bits=8)
    source = DirectorySource(model)
    run_layers(source, random_batches(), make_pass(parameters), tmp_path / "out", tmp_path / "scratch")
    artifact = DirectorySource(tmp_path / "out")
    assert read_config(artifact)["tie_word_embeddings"] is False
    figures = evaluate(
        DecoderLayout.open(source), artifact, random_batches(), CPU, ignore_progress, tmp_path / "scratch"
    )
    assert figures.reference_perplexity == pytest.approx(perplexity_of_transformers(model), rel=1e-4)
    assert figures.kl_divergence < (1e-6 if name == "rotation" else 1e-2)
    if name == "rotation":
        assert perplexity_of_transformers(tmp_path / "out") == pytest.approx(
            perplexity_of_transformers(model), rel=1e-4
        )


def test_a_head_that_equals_the_embedding_leaves_the_config_as_it_is(tmp_path: Path) -> None:
    model = save_tied(tmp_path / "model", "same")
    parameters = make_pass(gptq_pass(group_size=32))
    run_layers(DirectorySource(model), random_batches(), parameters, tmp_path / "out", tmp_path / "scratch")
    assert read_config(DirectorySource(tmp_path / "out"))["tie_word_embeddings"] is True


def test_an_untied_config_without_a_head_is_refused_with_the_cure(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=True)
    config = read_config(DirectorySource(tmp_path / "model"))
    (tmp_path / "model/config.json").write_bytes(json_file({**config, "tie_word_embeddings": False}))
    with pytest.raises(QuantizationError, match=f"lacks the tensor {HEAD}") as caught:
        DecoderLayout.open(DirectorySource(tmp_path / "model"))
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert "tie_word_embeddings: true" in caught.value.hint


def test_a_tied_head_without_the_embedding_is_refused_with_the_cure(tmp_path: Path) -> None:
    model = save_tied(tmp_path / "model", "only")
    with pytest.raises(QuantizationError, match=f"lacks the tensor {EMBEDDING}") as caught:
        DecoderLayout.open(DirectorySource(model))
    assert f"store {HEAD} under the name {EMBEDDING}" in caught.value.hint
