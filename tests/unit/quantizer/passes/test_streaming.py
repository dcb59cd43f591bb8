"""The streaming loop: what it writes, what it reports, what it refuses."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.choice import mostly_nightly
from tests.support.engine import (
    CALIBRATION,
    CPU,
    STORIES,
    VALIDATION,
    files,
    gptq_pass,
    ignore_progress,
    make_pass,
    random_batches,
    run_layers,
    run_pass,
    save_tiny,
    story_batches,
)
from torch import Tensor

from quantizer.algorithms.awq.rounding import AwqConfig
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import Buffer, DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate, evaluate_beside_rtn
from quantizer.evaluation.views import RtnBaseline
from quantizer.formats.awq import AwqFormat
from quantizer.formats.gptq import TENSORS, GptqFormat
from quantizer.passes.awq import AwqLayerPass
from quantizer.passes.finished import NothingFinished
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.interface import FinishedLayer, LayerContext, LayerPass

pytestmark = pytest.mark.unit


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny random model, in float16 so that "dtype kept" means something."""
    save_tiny(tmp_path / "model", dtype="float16")
    tensors = {name: t.half() for name, t in load_file(tmp_path / "model/model.safetensors").items()}
    save_file(tensors, tmp_path / "model/model.safetensors")
    (tmp_path / "model/tokenizer.json").write_text('{"any": "bytes"}')
    return tmp_path / "model"


@pytest.mark.parametrize("true_sequential", [False, True])
def test_two_runs_write_the_same_bytes(tiny: Path, tmp_path: Path, true_sequential: bool) -> None:
    for name in ("one", "two"):
        run_pass(
            DirectorySource(tiny),
            random_batches(),
            tmp_path / name,
            tmp_path / "scratch",
            group_size=32,
            true_sequential=true_sequential,
            max_shard_bytes=20_000,
        )
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len([name for name in files(tmp_path / "one") if name.endswith(".safetensors")]) > 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_is_not_quantized_is_kept_byte_for_byte(tiny: Path, tmp_path: Path) -> None:
    report = run_pass(
        DirectorySource(tiny), random_batches(), tmp_path / "out", tmp_path / "scratch", group_size=32
    )
    before, after = load_file(tiny / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    linears = {module.name for module in report.linears}
    assert len(linears) == 2 * 7
    kept = {name for name in before if name.removesuffix(".weight") not in linears}
    assert set(after) == kept | {f"{name}.{part}" for name in linears for part in TENSORS}
    for name in kept:
        assert after[name].dtype == torch.float16
        assert torch.equal(after[name], before[name])
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    assert report.output_bytes == (tmp_path / "out/model.safetensors").stat().st_size
    assert sorted(report.files) == sorted(files(tmp_path / "out"))


def test_the_configs_say_how_it_was_quantized_and_keep_the_rest(tiny: Path, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"bits": 3, "group_size": 32, "desc_act": True, "damp_percent": 0.05}
    run_pass(DirectorySource(tiny), random_batches(), tmp_path / "out", tmp_path / "scratch", **parameters)
    config = json.loads((tmp_path / "out/config.json").read_text())
    quantization = config.pop("quantization_config")
    stored = {"dtype": "float16"}  # what the tensors are; the model's own config names another type
    assert config == json.loads((tiny / "config.json").read_text()) | stored
    expected = {
        **{"quant_method": "gptq", "checkpoint_format": "gptq", "sym": False, "static_groups": False},
        **{"true_sequential": False, "lm_head": False, **parameters},
    }
    assert quantization == expected
    beside = json.loads((tmp_path / "out/quantize_config.json").read_text())
    assert {key: beside[key] for key in expected} == expected


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=True)
    run_pass(
        DirectorySource(tmp_path / "model"), random_batches(), tmp_path / "out", tmp_path / "s", group_size=32
    )
    assert "lm_head.weight" not in load_file(tmp_path / "out/model.safetensors")
    evaluate(
        DecoderLayout.open(DirectorySource(tmp_path / "model")), DirectorySource(tmp_path / "out"),
        random_batches(), CPU, ignore_progress, tmp_path,
    )  # fmt: skip


def test_biases_and_grouped_queries_survive(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", attention_bias=True, mlp_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "model")
    source, out = DirectorySource(tmp_path / "model"), DirectorySource(tmp_path / "out")
    run_pass(source, random_batches(), tmp_path / "out", tmp_path / "s", bits=8, group_size=32)
    result = evaluate(DecoderLayout.open(source), out, random_batches(seed=2), CPU, ignore_progress, tmp_path)
    assert result.max_abs_dlogit < 0.01


def test_layers_are_kept_when_they_are_done_as_they_are_written(tiny: Path, tmp_path: Path) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    progress: list[tuple[str, int, int]] = []

    class Watching(NothingFinished):
        def save(self, index: int, layer: FinishedLayer) -> None:
            assert progress[-1] == ("quantize", index, 2)
            seen[index] = dict(layer.tensors)

    run_layers(
        DirectorySource(tiny),
        random_batches(),
        make_pass(gptq_pass(group_size=32)),
        tmp_path / "out",
        tmp_path / "scratch",
        finished=Watching(),
        on_progress=lambda *step: progress.append(step),
    )
    assert progress == [("quantize", 0, 2), ("quantize", 1, 2), ("quantize", 2, 2)]
    stored = load_file(tmp_path / "out/model.safetensors")
    layers = {name for name in stored if name.startswith("model.layers.")}
    assert {name for tensors in seen.values() for name in tensors} == layers
    for tensors in seen.values():
        for name, tensor in tensors.items():
            assert torch.equal(stored[name], tensor)


class LayerOneSource(DirectorySource):
    """A directory that says when the second decoder layer has been asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked = threading.Event()
        tensors = SafetensorsReader(DirectorySource(root)).tensors
        self.starts = {info.start for name, info in tensors.items() if name.startswith("model.layers.1.")}

    def read(self, name: str, start: int, length: int) -> Buffer:
        if start in self.starts and length > 8:
            self.asked.set()
        return super().read(name, start, length)


def test_the_next_layer_is_read_while_a_layer_is_quantized(tiny: Path, tmp_path: Path) -> None:
    source, waited = LayerOneSource(tiny), []

    class Waiting(GptqLayerPass):
        def run(self, layer: LayerContext) -> FinishedLayer:
            waited.append(source.asked.wait(20))
            return super().run(layer)

    layer_pass = make_pass(gptq_pass(group_size=32))
    assert isinstance(layer_pass, GptqLayerPass)
    waiting = Waiting(layer_pass.config, layer_pass.format)
    run_layers(source, random_batches(), waiting, tmp_path / "out", tmp_path / "scratch")
    assert waited == [True, True]


def check_example_model(layer_pass: LayerPass, samples: int, bound: float, folder: Path) -> QuantizeReport:
    """The example model is nearer to the float one than RTN leaves it, and nearer than the bound (KL)."""
    source, out = DirectorySource(STORIES), DirectorySource(folder / "out")
    report = run_layers(
        source, story_batches(CALIBRATION, samples, folder), layer_pass, folder / "out", folder / "scratch"
    )
    held_out = story_batches(VALIDATION, 6, folder)
    baseline = RtnBaseline.of(layer_pass)
    assert baseline is not None
    ours, rtn = evaluate_beside_rtn(
        DecoderLayout.open(source), out, baseline, held_out, CPU, ignore_progress, folder
    )
    assert ours.kl_divergence < 0.85 * rtn.kl_divergence
    assert ours.kl_divergence < bound
    assert ours.perplexity < rtn.perplexity
    return report


@pytest.mark.parametrize("true_sequential", [False, pytest.param(True, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("bits", "bound"), mostly_nightly([(4, 0.09), (3, 0.42), (2, 2.83)], [(4, 0.09)]))
def test_the_example_model_does_better_than_rtn(
    true_sequential: bool, bits: int, bound: float, tmp_path: Path
) -> None:
    """The bounds are the KL divergences of a plain, slow reference, with room for the calibration set."""
    layer_pass = make_pass(gptq_pass(bits=bits, group_size=32, true_sequential=true_sequential))
    report = check_example_model(layer_pass, 32, bound, tmp_path)
    assert all(module.error < module.error_rtn for module in report.linears)
    assert report.bits_per_weight == pytest.approx(bits + (16 + bits) / 32, abs=0.1)


@pytest.mark.parametrize(("bits", "bound"), mostly_nightly([(4, 0.078), (3, 0.42), (2, 3.19)], [(4, 0.078)]))
@pytest.mark.nightly
def test_the_example_model_does_better_with_awq_than_with_rtn(
    bits: int, bound: float, tmp_path: Path
) -> None:
    """The bounds are again the reference's, without clipping.

    AWQ's own formats hold 4 bits only: fewer lie in a format that has them, so that the algorithm is seen.
    """
    layout = AwqFormat("gemm", 4, 32) if bits == 4 else GptqFormat(bits, 32, version=2)
    report = check_example_model(AwqLayerPass(AwqConfig(bits, 32), layout), 8, bound, tmp_path)
    assert all(module.error < module.error_rtn for module in report.linears)


def test_sequences_of_any_length_are_calibrated_without_padding(tiny: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 5, 17, 3, 32, 32, 32, 1)
    ragged = TokenBatches(tuple(torch.randint(0, 96, (length,), generator=generator) for length in lengths))
    report = run_pass(
        DirectorySource(tiny), ragged, tmp_path / "out", tmp_path / "scratch", group_size=32, bits=8
    )
    assert report.calibration_tokens == sum(lengths)
