"""What we write is read by transformers with optimum and gptqmodel, in an environment of their own."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import CALIBRATION, CPU, STORIES, VALIDATION, run_pass, story_batches

from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.formats.gptq import TENSORS, GptqFormat

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "reference/transformers_reader.py"
VARIABLE = "QUANTIZATION_READER_PYTHON"
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "asymmetric": {"bits": 4, "group_size": 32},
    "symmetric, act-order": {"bits": 4, "group_size": 32, "sym": True, "desc_act": True},
    "3 bits, sharded": {"bits": 3, "group_size": 32, "max_shard_bytes": 3_000_000},
    "2 bits": {"bits": 2, "group_size": 32, "true_sequential": True},
    "8 bits, one group": {"bits": 8, "group_size": -1},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model, quantized in several ways."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokens = story_batches(CALIBRATION, 8, folder)
    paths: dict[str, Path] = {}
    for number, (name, parameters) in enumerate(CHECKPOINTS.items()):
        paths[name] = folder / str(number)
        run_pass(DirectorySource(STORIES), tokens, paths[name], folder / "scratch", **parameters)
    return paths


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Two sequences of held-out text."""
    return torch.stack(story_batches(VALIDATION, 2, tmp_path_factory.mktemp("tokens"), 128).sequences)


@pytest.fixture(scope="module")
def readings(
    checkpoints: dict[str, Path], tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the independent reader makes of each checkpoint."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.fail(f"{VARIABLE} is not set; `python -m tests.support.environments readers` prints a value")
    folder = tmp_path_factory.mktemp("reader")
    request = {"directories": [str(path) for path in checkpoints.values()], "tokens": tokens}
    torch.save(request, folder / "request.pt")
    run = subprocess.run(
        [python, str(SCRIPT), str(folder / "request.pt"), str(folder / "result.pt")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    results = torch.load(folder / "result.pt", weights_only=True)
    return dict(zip(checkpoints, results, strict=True))


def our_logits(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the evaluation's own forward pass over the checkpoint."""
    view = open_view(DirectorySource(directory), CPU)
    with torch.inference_mode():
        hidden = next(view.model.embed([tokens]))
        for layer in view.layers():
            hidden = layer.forward(hidden)
        head = view.model.reader.tensor(view.model.head_name()).float()
        return view.model.logits(view.model.final(hidden), 0, head)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_are_ours_within_a_thousandth(
    name: str, readings: dict[str, dict[str, Any]], checkpoints: dict[str, Path], tokens: torch.Tensor
) -> None:
    difference = (readings[name]["logits"] - our_logits(checkpoints[name], tokens)).abs().max()
    print(f"{name}: max |difference of logits| = {float(difference):.2e}")
    assert difference <= 1e-3


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_integers_and_zero_points_are_ours_bit_by_bit(
    name: str, readings: dict[str, dict[str, Any]], checkpoints: dict[str, Path]
) -> None:
    reader = SafetensorsReader(DirectorySource(checkpoints[name]))
    linears = readings[name]["linears"]
    assert len(linears) == 6 * 7
    for linear, theirs in linears.items():
        tensors = {part: reader.tensor(f"{linear}.{part}") for part in TENSORS}
        ours = GptqFormat(CHECKPOINTS[name]["bits"]).unpack(linear, tensors)
        assert torch.equal(ours.integers, theirs["integers"]), linear
        assert torch.equal(ours.zeros, theirs["zeros"]), linear
