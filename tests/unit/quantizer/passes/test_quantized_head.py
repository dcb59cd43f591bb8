"""A head that is quantized: written, read back, counted, chosen under a budget, and refused where nobody reads it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import CPU, gptq_pass, make_pass, random_batches, run_pass, save_tiny
from tests.support.quantized_models import as_float, save_family, transformers_logits, view_logits
from transformers import LlamaForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import GridRule, Scheme
from quantizer.algorithms.quantized_weight import round_to_nearest
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate, evaluate_beside_rtn
from quantizer.evaluation.views import RtnBaseline, open_view
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.passes import head_divergence
from quantizer.passes.gptq_head import PackedRows
from quantizer.passes.sensitivity import measure, walking
from quantizer.passes.sizes import check_sizes
from quantizer.passes.written import schemes_of

from .test_mixed_gptq import whole_model

pytestmark = pytest.mark.unit

FORMATS = ("gptq", "gptq_v2", "compressed-tensors")
GROUP = 32
TOKENS = random_batches()
CHOSEN = {"target_bits": 5, "candidate_group_sizes": [GROUP]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a head of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder, initializer_range=0.2)
    return folder


def quantized(model: Path, folder: Path, **parameters: Any) -> Any:
    """Quantizes into FOLDER/out with its head; the report."""
    settings = {"lm_head": True, **parameters}
    return run_pass(DirectorySource(model), TOKENS, folder / "out", folder / "scratch", **settings)


@pytest.mark.parametrize("checkpoint_format", FORMATS)
@pytest.mark.parametrize("parameters", [{"group_size": GROUP}, CHOSEN], ids=["alike", "chosen"])
def test_a_quantized_head_is_read_back_as_the_plain_model_computes_it(
    parameters: dict[str, Any], checkpoint_format: str, tiny: Path, tmp_path: Path
) -> None:
    report = quantized(tiny, tmp_path, checkpoint_format=checkpoint_format, **parameters)
    assert report.linears[-1].name == "lm_head"
    assert report.linears[-1].error <= report.linears[-1].error_rtn
    written = load_file(tmp_path / "out/model.safetensors")
    assert "lm_head.weight" not in written
    assert {name for name in written if name.startswith("lm_head.")}
    as_float(tmp_path / "out", tmp_path / "float")
    tokens = torch.stack(TOKENS.sequences[:2])
    ours = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU), tokens)
    assert torch.allclose(ours, transformers_logits(tmp_path / "float", tokens), atol=1e-4)


def test_config_json_says_that_the_head_is_quantized(tiny: Path, tmp_path: Path) -> None:
    quantized(tiny, tmp_path / "gptq", group_size=GROUP)
    quantized(tiny, tmp_path / "tensors", group_size=GROUP, checkpoint_format="compressed-tensors")
    gptq, tensors = (
        json.loads((tmp_path / name / "out/config.json").read_text())["quantization_config"]
        for name in ("gptq", "tensors")
    )
    assert gptq["lm_head"] is True
    assert tensors["ignore"] == []
    assert tensors["config_groups"]["group_0"]["targets"] == ["Linear", "lm_head"]


def test_bits_of_a_weight_and_the_target_count_the_head(tiny: Path, tmp_path: Path) -> None:
    report = quantized(tiny, tmp_path, **CHOSEN, checkpoint_format="compressed-tensors")
    schemes = schemes_of(report.linears)
    assert isinstance(schemes["lm_head"], Scheme)
    weights = {linear.name: linear.shape[0] * linear.shape[1] for linear in report.linears}
    stored = load_file(tmp_path / "out/model.safetensors")
    bits = sum(
        8 * tensor.nbytes for name, tensor in stored.items() if name.rpartition(".")[0] in weights
    ) / sum(weights.values())
    assert report.bits_per_weight == pytest.approx(bits)
    assert 4.5 < report.bits_per_weight <= 5


def test_a_target_of_the_size_counts_the_head(tiny: Path, tmp_path: Path) -> None:
    target = 75_000
    report = quantized(
        tiny,
        tmp_path,
        target_size=target,
        candidate_group_sizes=[GROUP],
        checkpoint_format="compressed-tensors",
    )
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert size == report.output_bytes
    assert 0.9 * target <= size <= target


def test_the_divergence_of_the_head_is_that_of_the_model_with_its_head_alone_rounded(
    tiny: Path, tmp_path: Path
) -> None:
    parameters = {"candidate_bits": [3, 4], "candidate_group_sizes": [GROUP], "lm_head": True}
    layer_pass = make_pass(gptq_pass(target_bits=4, **parameters))
    whole = whole_model(tiny, tmp_path)
    with torch.inference_mode():
        ties = measure(whole, layer_pass.candidates(whole.model.layout), 0)  # type: ignore[arg-type]
    assert ties[-1].names == ("lm_head",)
    assert ties[-1].errors[0] > ties[-1].errors[1] > 0
    quantized(tiny, tmp_path, bits=3, group_size=GROUP)
    as_float(tmp_path / "out", tmp_path / "float")
    model = LlamaForCausalLM.from_pretrained(tiny)
    tokens = torch.stack(walking(TOKENS).sequences)
    with torch.inference_mode():
        before = model(tokens).logits[:, 3::4].log_softmax(-1)
        # solved on other inputs, those behind the rounded layers, it is nearly as far away
        model.lm_head.weight.copy_(load_file(tmp_path / "float/model.safetensors")["lm_head.weight"])
        after = model(tokens).logits[:, 3::4].log_softmax(-1)
    expected = float((before.exp() * (before - after)).sum(-1).mean())
    assert ties[-1].divergence == pytest.approx(expected, rel=0.2)


def test_a_vocabulary_of_many_slices_diverges_as_in_one(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a path has for the head is read once for each block, not for each slice."""
    parameters = {"candidate_bits": [3, 4], "candidate_group_sizes": [GROUP], "lm_head": True}
    layer_pass = make_pass(gptq_pass(target_bits=4, **parameters))
    read: list[str] = []

    class Watched(ActivationStore):
        def read(self, number: int) -> torch.Tensor:
            read.append(self._path.name)
            return super().read(number)

    def measured(folder: str) -> list[float]:
        (tmp_path / folder).mkdir()
        whole = whole_model(tiny, tmp_path / folder)
        watched = replace(
            whole, store=lambda *named: Watched(tmp_path / folder / named[0], *named[1:], torch.float32, CPU)
        )
        with torch.inference_mode():
            ties = measure(watched, layer_pass.candidates(whole.model.layout), 0)  # type: ignore[arg-type]
        return [tie.divergence for tie in ties]

    at_once = measured("at-once")
    read.clear()
    monkeypatch.setattr(head_divergence, "BLOCK_ROWS", 40)
    monkeypatch.setattr(head_divergence, "HEAD_ROWS", 8)
    assert measured("in-slices") == pytest.approx(at_once, rel=1e-4)
    blocks = -(-DecoderLayout.open(DirectorySource(tiny)).head_shape[0] // 40)
    assert read.count("float.head-0") == read.count("float.head-3") == blocks * len(walking(TOKENS).batches())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("sym", [True, False], ids=["symmetric", "asymmetric"])
def test_slices_of_rows_are_packed_as_the_whole(bits: int, sym: bool) -> None:
    torch.manual_seed(0)
    whole = round_to_nearest(torch.randn(160, 64), GROUP, GridRule(bits, sym))
    for made in (GptqFormat(bits, GROUP, sym), CompressedTensorsFormat(bits, GROUP, sym)):
        for step in (7, 32, 50, 160):
            packed = PackedRows(made)
            for first in range(0, 160, step):
                packed.add(whole.rows(slice(first, first + step)))
            found, expected = packed.tensors(), made.pack(whole)
            assert packed.rows == 160
            assert found.keys() == expected.keys()
            for kind, tensor in expected.items():
                assert torch.equal(found[kind], tensor), kind
                assert found[kind].is_contiguous()


def test_rtn_beside_it_rounds_the_head_too(tiny: Path, tmp_path: Path) -> None:
    layout = DecoderLayout.open(DirectorySource(tiny))
    found = []
    for head in (False, True):
        quantized(tiny, tmp_path / str(head), bits=3, group_size=GROUP, lm_head=head)
        baseline = RtnBaseline.of(make_pass(gptq_pass(bits=3, group_size=GROUP, lm_head=head)))
        assert baseline is not None
        artifact = DirectorySource(tmp_path / str(head) / "out")
        ours, rtn = evaluate_beside_rtn(layout, artifact, baseline, TOKENS, CPU, lambda *_: None, tmp_path)
        found.append((ours, rtn))
        alone = evaluate(layout, artifact, TOKENS, CPU, lambda *_: None, tmp_path)
        assert alone.kl_divergence == pytest.approx(ours.kl_divergence)
    (ours, rtn), (ours_with_head, rtn_with_head) = found
    assert ours_with_head.kl_divergence > ours.kl_divergence
    assert rtn_with_head.kl_divergence > rtn.kl_divergence


def test_a_head_that_is_the_embedding_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, tie_word_embeddings=True)
    with pytest.raises(QuantizationError, match="the head of this model is its embedding") as caught:
        quantized(tmp_path, tmp_path, group_size=GROUP)
    assert caught.value.category is Category.INVALID_WORKFLOW
    assert caught.value.hint == "Leave lm_head out."


def test_a_head_of_another_name_is_refused(tmp_path: Path) -> None:
    save_family("gpt_neox, parallel", tmp_path)
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    with pytest.raises(QuantizationError, match="the head of this model is embed_out; readers") as caught:
        check_sizes(layout, make_pass(gptq_pass(group_size=16, lm_head=True)))
    assert caught.value.category is Category.MODEL_UNSUPPORTED


def test_a_vocabulary_that_the_format_does_not_pack_is_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    save_tiny(tmp_path, vocab_size=97)
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    with pytest.raises(QuantizationError, match="lm_head has 97 outputs; the gptq format packs 4-bit"):
        check_sizes(layout, make_pass(gptq_pass(group_size=GROUP, lm_head=True)))
    check_sizes(layout, make_pass(gptq_pass(group_size=GROUP)))


def test_an_artifact_whose_head_is_damaged_is_told_apart(tiny: Path, tmp_path: Path) -> None:
    quantized(tiny, tmp_path, group_size=GROUP)
    config = tmp_path / "out/config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "vocab_size": 64}))
    with pytest.raises(QuantizationError, match=r"lm_head\.\w+ is .* config.json makes it") as caught:
        open_view(DirectorySource(tmp_path / "out"), CPU)
    assert caught.value.category is Category.ARTIFACT_CORRUPT
