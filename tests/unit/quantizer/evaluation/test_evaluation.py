"""Perplexity and divergence, layer by layer and slice by slice, against the plain formulas on whole models."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import (
    CPU,
    STORIES,
    VALIDATION,
    ignore_progress,
    random_batches,
    run_pass,
    save_tiny,
    story_batches,
)
from torch.nn import functional
from transformers import LlamaForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation import streamed
from quantizer.evaluation.streamed import compare, compare_all, evaluate
from quantizer.evaluation.views import FloatView

pytestmark = pytest.mark.unit


def plain_figures(
    one: LlamaForCausalLM, two: LlamaForCausalLM, tokens: TokenBatches
) -> tuple[float, float, float]:
    """(perplexity of two, KL(one | two) per token, largest logit difference) from whole logits."""
    loss = divergence = largest = 0.0
    predictions = 0
    with torch.inference_mode():
        for sequence in tokens.sequences:
            p, q = (model(sequence.unsqueeze(0)).logits[0].double() for model in (one, two))
            log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
            divergence += float((log_p.exp() * (log_p - log_q)).sum())
            largest = max(largest, float((p - q).abs().max()))
            loss += float(functional.nll_loss(log_q[:-1], sequence[1:], reduction="sum"))
            predictions += len(sequence) - 1
    return math.exp(loss / predictions), divergence / tokens.tokens, largest


def test_figures_are_those_of_the_plain_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "HEAD_ROWS", 20)  # 96 entries in slices of 20: several, and one that is cut
    one = save_tiny(tmp_path / "one", seed=0, initializer_range=0.3)
    two = save_tiny(tmp_path / "two", seed=1, initializer_range=0.3)
    ragged = TokenBatches(
        (*random_batches(5, 32).sequences, *random_batches(3, 9).sequences), batch_tokens=64
    )
    views = [FloatView(DecoderLayout.open(DirectorySource(tmp_path / name)), CPU) for name in ("one", "two")]
    ours = compare(views[0], views[1], ragged, ignore_progress, tmp_path)
    perplexity, divergence, largest = plain_figures(one, two, ragged)
    assert ours.perplexity == pytest.approx(perplexity, rel=1e-5)
    assert ours.reference_perplexity == pytest.approx(plain_figures(two, one, ragged)[0], rel=1e-5)
    assert ours.kl_divergence == pytest.approx(divergence, rel=1e-4)
    assert ours.max_abs_dlogit == pytest.approx(largest, rel=1e-4)
    assert ours.tokens == ragged.tokens
    assert ours.top1_agreement == plain_agreement(one, two, ragged) < 1


def plain_agreement(one: LlamaForCausalLM, two: LlamaForCausalLM, tokens: TokenBatches) -> float:
    """Share of tokens at which both models have the same largest logit."""
    with torch.inference_mode():
        same = sum(
            int((one(ids[None]).logits.argmax(-1) == two(ids[None]).logits.argmax(-1)).sum())
            for ids in tokens.sequences
        )
    return same / tokens.tokens


def test_perplexity_is_that_of_transformers_to_four_digits_on_a_real_model(tmp_path: Path) -> None:
    tokens = story_batches(VALIDATION, samples=8, scratch=tmp_path)
    layout = DecoderLayout.open(DirectorySource(STORIES))
    ours = evaluate(layout, None, tokens, CPU, ignore_progress, tmp_path)
    whole = LlamaForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    losses = []
    with torch.inference_mode():
        for ids in tokens.sequences:
            log_p = whole(ids[None]).logits[0, :-1].log_softmax(-1)
            losses += [-log_p[place, target].item() for place, target in enumerate(ids[1:].tolist())]
    assert f"{ours.perplexity:.3f}" == f"{math.exp(sum(losses) / len(losses)):.3f}"
    assert 1 < ours.perplexity < 10


def test_every_sequence_contributes_what_it_has_alone(tmp_path: Path) -> None:
    views = []
    for seed, name in enumerate(("one", "two")):
        save_tiny(tmp_path / name, seed=seed, initializer_range=0.3)
        views.append(FloatView(DecoderLayout.open(DirectorySource(tmp_path / name)), CPU))
    ragged = TokenBatches((*random_batches(3, 20).sequences, *random_batches(2, 9).sequences))
    sums = compare(views[0], views[1], ragged, ignore_progress, tmp_path).sums
    assert sums.tokens.tolist() == [20, 20, 20, 9, 9]
    assert sums.predictions.tolist() == [19, 19, 19, 8, 8]
    for place, sequence in enumerate(ragged.sequences):
        alone = compare(views[0], views[1], TokenBatches((sequence,)), ignore_progress, tmp_path)
        assert alone.kl_divergence * len(sequence) == pytest.approx(sums.divergence[place], rel=1e-5)
        assert alone.top1_agreement * len(sequence) == pytest.approx(sums.agreed[place])
        assert math.log(alone.perplexity) * (len(sequence) - 1) == pytest.approx(sums.loss[place], rel=1e-5)


def test_candidates_beside_each_other_have_the_figures_that_each_has_alone(tmp_path: Path) -> None:
    views = []
    for seed, name in enumerate(("reference", "one", "two")):
        save_tiny(tmp_path / name, seed=seed, initializer_range=0.3)
        views.append(FloatView(DecoderLayout.open(DirectorySource(tmp_path / name)), CPU))
    both = compare_all(views[0], views[1:], random_batches(), ignore_progress, tmp_path)
    alone = [compare(views[0], view, random_batches(), ignore_progress, tmp_path) for view in views[1:]]
    assert both == alone
    assert both[0] != both[1]


def test_a_model_diverges_from_itself_by_nothing(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    views = [FloatView(DecoderLayout.open(DirectorySource(tmp_path)), CPU) for _ in range(2)]
    ours = compare(views[0], views[1], random_batches(), ignore_progress, tmp_path)
    assert abs(ours.kl_divergence) < 1e-7
    assert ours.max_abs_dlogit == 0.0
    assert ours.perplexity == ours.reference_perplexity


def test_one_model_alone_has_a_perplexity_and_tells_its_progress(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    steps: list[tuple[str, int, int]] = []
    ours = evaluate(
        DecoderLayout.open(DirectorySource(tmp_path)),
        None,
        random_batches(),
        CPU,
        lambda *step: steps.append(step),
        tmp_path,
    )
    assert ours.perplexity == ours.reference_perplexity > 1
    assert ours.kl_divergence == 0.0
    layers, heads = steps[:2], steps[2:]
    assert layers == [("evaluate", 1, 2), ("evaluate", 2, 2)]
    assert [stage for stage, _, _ in heads] == ["heads"] * len(heads)
    assert heads[-1][1] == heads[-1][2] > 0


def test_no_token_to_predict_is_insufficient(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    with pytest.raises(QuantizationError, match="no sequence has a second token") as caught:
        evaluate(
            DecoderLayout.open(DirectorySource(tmp_path)),
            None,
            random_batches(4, 1),
            CPU,
            ignore_progress,
            tmp_path,
        )
    assert caught.value.category is Category.DATA_INSUFFICIENT


def test_figures_that_are_not_finite_are_a_numerical_failure(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(QuantizationError, match="not finite") as caught:
        evaluate(
            DecoderLayout.open(DirectorySource(tmp_path)),
            None,
            random_batches(),
            CPU,
            ignore_progress,
            tmp_path,
        )
    assert caught.value.category is Category.NUMERICAL_FAILURE


def test_a_damaged_artifact_is_corrupt_by_name(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    source, artifact = DirectorySource(tmp_path / "model"), tmp_path / "out"
    run_pass(source, random_batches(), artifact, tmp_path / "scratch", group_size=32)
    whole = (artifact / "model.safetensors").read_bytes()
    tensors = load_file(artifact / "model.safetensors")

    def refused(sentence: str) -> None:
        with pytest.raises(QuantizationError, match=sentence) as caught:
            evaluate(
                DecoderLayout.open(source),
                DirectorySource(artifact),
                random_batches(),
                CPU,
                ignore_progress,
                tmp_path,
            )
        assert caught.value.category is Category.ARTIFACT_CORRUPT

    (artifact / "model.safetensors").write_bytes(whole[:-100])
    refused("is truncated")
    del tensors["model.layers.1.mlp.up_proj.g_idx"]
    save_file(tensors, artifact / "model.safetensors")
    refused(r"lacks the tensor model.layers.1.mlp.up_proj.g_idx")
    tensors["model.layers.1.mlp.up_proj.g_idx"] = torch.zeros(63, dtype=torch.int32)
    save_file(tensors, artifact / "model.safetensors")
    refused(r"up_proj.g_idx is torch.int32 \[63\], config.json makes it torch.int32 \[64\]")
    (artifact / "model.safetensors").write_bytes(whole)
    (artifact / "config.json").write_bytes((tmp_path / "model/config.json").read_bytes())
    refused("does not say quant_method, .* lacks the tensor model.layers.0.self_attn.q_proj.weight")
