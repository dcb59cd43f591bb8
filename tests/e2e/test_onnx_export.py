"""GPTQ and AWQ checkpoints as ONNX: onnxruntime computes what the checkpoint says, and text comes out of it."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.support.choice import chosen, mostly_nightly
from tests.support.engine import (
    CALIBRATION,
    CPU,
    STORIES,
    VALIDATION,
    copier,
    ignore_progress,
    make_pass,
    run_pass,
    story_batches,
)
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import AutoAWQQuantizer, ModelBuilder
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.export import model_builder
from quantizer.export.graph import check_integers
from quantizer.export.logits import compare_logits
from quantizer.export.model_builder import OnnxReport, export
from quantizer.export.quantized import QuantizedCheckpoint
from quantizer.export.runtime import load_silently
from quantizer.passes.streaming import quantize

pytestmark = pytest.mark.e2e

onnxruntime_genai = load_silently("onnxruntime_genai")

GROUP = 32
STEP = """
import pathlib, sys, torch
from quantization_api.passes import ModelBuilder
from quantizer.export.model_builder import export
model, target, scratch = map(pathlib.Path, sys.argv[1:])
step = ModelBuilder.model_construct(type="ModelBuilder")
export(model, step, target, scratch, lambda *_: None, tokens=[torch.arange(64)])
"""
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "gptq": {"bits": 4, "group_size": GROUP, "true_sequential": True},
    "gptq, symmetric, static act-order": {
        "bits": 4,
        "group_size": GROUP,
        "sym": True,
        "desc_act": True,
        "static_groups": True,
    },
    "gptq, 8 bits": {"bits": 8, "group_size": GROUP},
    "gptq, 2 bits": {"bits": 2, "group_size": GROUP},
    "awq": {},
    "awq, symmetric": {"zero_point": False},
}
EVERY_TIME = ("gptq",)


def step(**parameters: Any) -> ModelBuilder:
    """The pass, whether the contract offers it yet or not."""
    return ModelBuilder.model_construct(type="ModelBuilder", **parameters)


def save_awq(tokens: TokenBatches, target: Path, scratch: Path, **parameters: Any) -> None:
    """The example model as the engine's AWQ pass writes it."""
    awq = AutoAWQQuantizer(type="AutoAWQQuantizer", q_group_size=GROUP, **parameters)
    source = DirectorySource(STORIES)
    quantize(
        DecoderLayout.open(source), tokens, make_pass(awq), copier(target), ignore_progress, CPU, scratch
    )


@pytest.fixture(scope="module")
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model, quantized in several ways."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokens = story_batches(CALIBRATION, 8, folder)
    names = {*EVERY_TIME, *chosen(request, "name")}
    paths = {name: folder / str(number) for number, name in enumerate(CHECKPOINTS) if name in names}
    for name, path in paths.items():
        if name.startswith("awq"):
            save_awq(tokens, path, folder, **CHECKPOINTS[name])
        else:
            run_pass(DirectorySource(STORIES), tokens, path, folder / "scratch", **CHECKPOINTS[name])
    return paths


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, ...]:
    """24 sequences of 256 tokens of held-out text."""
    return story_batches(VALIDATION, 24, tmp_path_factory.mktemp("tokens")).sequences


@pytest.fixture(scope="module")
def exports(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, OnnxReport]]:
    """Each checkpoint's graph, checked on the calibration text as in a job."""
    folder = tmp_path_factory.mktemp("onnx")
    tokens = story_batches(CALIBRATION, 2, folder).sequences
    made = {}
    for number, (name, path) in enumerate(checkpoints.items()):
        precision = "int8" if "8 bits" in name else "int4"
        target = folder / str(number)
        report = export(
            path, step(precision=precision), target, folder / "scratch", ignore_progress, tokens=tokens
        )
        made[name] = target, report
    return made


def opened(path: Path) -> QuantizedCheckpoint:
    """A checkpoint, as the step reads it."""
    return QuantizedCheckpoint(DirectorySource(path))


@pytest.mark.parametrize("name", mostly_nightly(CHECKPOINTS, EVERY_TIME))
def test_the_graph_computes_what_the_checkpoint_does_on_held_out_text(
    name: str,
    checkpoints: dict[str, Path],
    exports: dict[str, tuple[Path, OnnxReport]],
    held_out: tuple[Tensor, ...],
) -> None:
    folder, report = exports[name]
    agreement = compare_logits(folder, opened(checkpoints[name]), held_out, "CPUExecutionProvider")
    print(f"{name}: {agreement}, {report.files}, {report.builder_peak_bytes / 1e6:.0f} MB")
    assert agreement.tokens == 24 * 256
    assert agreement.top1_agreement >= 0.99
    assert agreement.kl_divergence <= 1e-3


@pytest.mark.parametrize("name", EVERY_TIME)
def test_onnxruntime_genai_writes_the_text_that_the_checkpoint_finds_most_likely(
    name: str, checkpoints: dict[str, Path], exports: dict[str, tuple[Path, OnnxReport]]
) -> None:
    folder, _ = exports[name]
    model = onnxruntime_genai.Model(str(folder))
    tokenizer = onnxruntime_genai.Tokenizer(model)
    prompt = tokenizer.encode("Once upon a time, there was a little")
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + 32, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    sequence = torch.tensor(generator.get_sequence(0).tolist())
    print(f"{name}: {tokenizer.decode(sequence.numpy())}")
    view = opened(checkpoints[name])
    with torch.inference_mode():
        hidden = next(view.model.embed([sequence.unsqueeze(0)]))
        for layer in view.layers():
            hidden = layer.forward(hidden)
        head = view.model.layout.reader.tensor(view.model.layout.head_name()).float()
        likely = view.model.logits(view.model.final(hidden), 0, head)[0].argmax(1)
    written = sequence[len(prompt) :]
    assert len(written) == 32
    assert torch.equal(written, likely[len(prompt) - 1 : -1])


def test_a_job_gets_the_graph_its_data_and_what_onnxruntime_genai_needs(
    exports: dict[str, tuple[Path, OnnxReport]],
) -> None:
    folder, report = exports["gptq"]
    expected = {
        "model.onnx",
        "model.onnx.data",
        "genai_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(report.files) == expected == {path.name for path in folder.iterdir()}
    assert report.linears == 6 * 7
    assert report.plan.accuracy_level == 1
    assert report.builder_peak_bytes > sum(report.files.values())


def test_the_step_leaves_nothing_on_scratch_and_tells_how_far_it_is(
    checkpoints: dict[str, Path], held_out: tuple[Tensor, ...], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    report = export(
        checkpoints["gptq"],
        step(int4_accuracy_level=4),
        tmp_path / "onnx",
        tmp_path / "scratch",
        lambda *progress: seen.append(progress),
        tokens=held_out[:2],
    )
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [event for event in seen if event[0] == "onnx"] == [("onnx", done, 6) for done in range(1, 7)]
    assert seen[-1] == ("onnx-logits", 2, 2)
    assert report.agreement.kl_divergence > 1e-5  # int8 activations: the option reaches the graph
    model = onnx.load(tmp_path / "onnx/model.onnx", load_external_data=False)
    commit = onnxruntime_genai.__commit__[:7]  # not that of the repository that the environment lies in
    assert model.producer_version == f"{onnxruntime_genai.__version__}+{commit}"
    levels = {a.i for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"}
    assert levels == {4}


@pytest.mark.nightly
def test_two_exports_are_the_same_bytes(
    checkpoints: dict[str, Path],
    exports: dict[str, tuple[Path, OnnxReport]],
    held_out: tuple[Tensor, ...],
    tmp_path: Path,
) -> None:
    again = tmp_path / "again"
    export(checkpoints["gptq"], step(), again, tmp_path, ignore_progress, tokens=held_out[:1])
    for path in exports["gptq"][0].iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_a_graph_that_computes_something_else_is_a_numerical_failure(
    checkpoints: dict[str, Path],
    held_out: tuple[Tensor, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The builder's own defaults, which round the head once more: the integers are right, the logits are not."""
    monkeypatch.setattr("quantizer.export.plan.TABLES", ())
    monkeypatch.setattr(model_builder, "check_integers", lambda *_: 42)
    with pytest.raises(QuantizationError) as caught:
        export(
            checkpoints["gptq"],
            step(),
            tmp_path / "onnx",
            tmp_path / "scratch",
            ignore_progress,
            tokens=held_out[:2],
        )
    assert caught.value.category is Category.NUMERICAL_FAILURE
    assert "KL is" in caught.value.message


def test_one_changed_byte_of_the_weights_is_found(
    checkpoints: dict[str, Path], exports: dict[str, tuple[Path, OnnxReport]], tmp_path: Path
) -> None:
    folder, _ = exports["gptq"]
    shutil.copytree(folder, tmp_path / "damaged")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    weight = next(t for t in graph.initializer if "layers.3.mlp.down_proj" in t.name and "qweight" in t.name)
    offset = int(next(entry.value for entry in weight.external_data if entry.key == "offset"))
    data = bytearray((folder / "model.onnx.data").read_bytes())
    data[offset + 5] ^= 0x10
    (tmp_path / "damaged/model.onnx.data").write_bytes(data)
    checkpoint = opened(checkpoints["gptq"])
    assert check_integers(folder, checkpoint) == 42
    with pytest.raises(QuantizationError, match=r"1 of 221184 integers of model\.layers\.3\.mlp\.down_proj"):
        check_integers(tmp_path / "damaged", checkpoint)


@pytest.mark.nightly
def test_the_step_asks_nobody_on_the_network(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Every proxy and hub address leads to a port of this test, at which nobody knocks.

    In a process of its own, so that what onnxruntime sends while it is loaded is seen too.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ORT_DISABLE_TELEMETRY")
        }
        for variable in (
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "HF_ENDPOINT",
        ):
            environment[variable] = address
        arguments = [str(checkpoints["gptq"]), str(tmp_path / "onnx"), str(tmp_path / "scratch")]
        subprocess.run([sys.executable, "-c", STEP, *arguments], env=environment, check=True)
        assert (tmp_path / "onnx/model.onnx").exists()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_act_order_without_static_groups_is_refused_with_what_to_write(tmp_path: Path) -> None:
    tokens = story_batches(CALIBRATION, 2, tmp_path)
    run_pass(
        DirectorySource(STORIES), tokens, tmp_path / "act", tmp_path / "scratch", group_size=32, desc_act=True
    )
    with pytest.raises(QuantizationError, match="write static_groups: true") as caught:
        export(
            tmp_path / "act",
            step(),
            tmp_path / "onnx",
            tmp_path / "scratch",
            ignore_progress,
            tokens=tokens.sequences,
        )
    assert caught.value.category is Category.INVALID_WORKFLOW
    assert not (tmp_path / "onnx").exists()
