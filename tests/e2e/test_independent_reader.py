"""What the passes make of the example model is read by transformers, gptqmodel and compressed-tensors as we read it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.choice import chosen, mostly_nightly
from tests.support.engine import CPU, VALIDATION, story_batches
from tests.support.quantized_models import as_read, unpacked, view_logits
from tests.support.reference import interpreter_from, run_reference
from tests.support.story_checkpoints import quantize_stories

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view

pytestmark = pytest.mark.e2e

LINEARS = 6 * 7
LOADERS = {
    "gptq, asymmetric": "transformers",
    "gptq, act order": "transformers",
    "gptq, 3 bits, sharded": "transformers",
    "gptq, 2 bits": "transformers",
    "gptq, 8 bits, one group": "transformers",
    "gptq, 3 bits, one group, act order": "transformers",
    "gptq_v2": "gptqmodel",
    "awq": "transformers",
    "awq, symmetric": "gptqmodel",
    "awq, compressed-tensors": "dequantized",
    "awq, compressed-tensors, 3 bits": "dequantized",
    "quarot, compressed-tensors": "dequantized",
    "quarot": "transformers",
    "quarot, RTN, 3 bits, asymmetric": "transformers",
    "quarot, then gptq, asymmetric": "transformers",
    "quarot, then gptq, act order": "gptqmodel",
    "quarot, then gptq, compressed-tensors": "dequantized",
    "compressed-tensors, 3 bits, asymmetric": "dequantized",
    "compressed-tensors, asymmetric, act order": "dequantized",
    "gptq, bits chosen, 3 and 4": "gptqmodel",
    "gptq_v2, bits and groups chosen": "gptqmodel",
    "compressed-tensors, bits chosen": "transformers",
    "compressed-tensors, bits and groups chosen": "transformers",
}
"""How each case is loaded; see reference/format_reader.py."""
EVERY_TIME = {
    "gptq, act order",
    "gptq, 3 bits, sharded",
    "awq",
    "compressed-tensors, asymmetric, act order",
    "compressed-tensors, bits chosen",
}
WITHOUT_INTEGERS = [name for name, loader in LOADERS.items() if loader == "dequantized"]
WITH_INTEGERS = [
    name for name in LOADERS if name not in WITHOUT_INTEGERS and not name.startswith("compressed-tensors")
]
"""Those that compressed-tensors runs as they are packed are judged by their logits alone."""


@pytest.fixture(scope="module")
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model, quantized in several ways."""
    return quantize_stories(chosen(request, "name"), tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Two sequences of held-out text."""
    return torch.stack(story_batches(VALIDATION, 2, tmp_path_factory.mktemp("tokens"), 128).sequences)


@pytest.fixture(scope="module")
def readings(
    checkpoints: dict[str, Path], tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the independent reader makes of each checkpoint."""
    requested = [{"directory": str(path), "loader": LOADERS[name]} for name, path in checkpoints.items()]
    request = {"checkpoints": requested, "tokens": tokens, "plain": True}
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    results = run_reference(python, "format_reader.py", request, tmp_path_factory.mktemp("reader"))
    return dict(zip(checkpoints, results, strict=True))


@pytest.mark.parametrize("name", mostly_nightly(LOADERS, EVERY_TIME))
def test_logits_are_ours_within_a_thousandth(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path], tokens: torch.Tensor
) -> None:
    assert isinstance(readings[name], dict), readings[name]
    ours = view_logits(open_view(DirectorySource(checkpoints[name]), CPU), tokens)
    difference = (readings[name]["logits"] - ours).abs().max()
    print(f"{name}: max |difference of logits| = {float(difference):.2e}")
    assert difference <= 1e-3


@pytest.mark.parametrize("name", mostly_nightly(WITH_INTEGERS, EVERY_TIME.intersection(WITH_INTEGERS)))
def test_integers_and_zero_points_are_ours_bit_by_bit(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    theirs, ours = readings[name]["linears"], unpacked(checkpoints[name])
    assert theirs.keys() == ours.keys()
    assert len(ours) == LINEARS
    for linear, (integers, zeros) in ours.items():
        assert torch.equal(theirs[linear]["integers"], integers), linear
        assert torch.equal(theirs[linear]["zeros"], zeros), linear


@pytest.mark.parametrize("name", mostly_nightly(WITHOUT_INTEGERS, EVERY_TIME.intersection(WITHOUT_INTEGERS)))
def test_weights_are_ours_bit_by_bit_where_a_reader_keeps_no_integers(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    theirs, ours = readings[name]["weights"], as_read(checkpoints[name])
    assert len(ours) == LINEARS
    for linear, weight in ours.items():
        assert torch.equal(theirs[linear], weight), linear
