"""A quantized head as transformers, gptqmodel, compressed-tensors and vLLM read it: as the table says, and as we do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.choice import chosen, mostly_nightly
from tests.support.engine import CPU
from tests.support.headed_checkpoints import HEAD_CASES, chosen_pass, quantize_heads, some_tokens
from tests.support.quantized_models import view_logits
from tests.support.reference import interpreter_from, run_reference

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.report.readers import COMPRESSED, DEQUANTIZED, OPTIMUM, readers, written_by

pytestmark = pytest.mark.e2e

LOADERS = {
    "gptqmodel": "gptqmodel",
    OPTIMUM: "transformers",
    COMPRESSED: "transformers",
    DEQUANTIZED: "dequantized",
}
"""Readers and how each is asked (reference/format_reader.py)."""
ASKED = [
    f"{name} | {reader}"
    for name in HEAD_CASES
    for reader in LOADERS
    if ("compressed" in name) == ("compressed" in reader)
]
EVERY_TIME = {"gptq | gptqmodel", f"compressed-tensors | {COMPRESSED}"}
TOKENS = some_tokens(2, 64)


def reads(name: str, reader: str) -> bool:
    """What the table says."""
    return reader in readers(written_by(chosen_pass(name), "llama"))


def logits(checkpoint: Path) -> torch.Tensor:
    """Ours."""
    return view_logits(open_view(DirectorySource(checkpoint), CPU), TOKENS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama whose head is quantized, in several ways."""
    return quantize_heads(HEAD_CASES, tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def readings(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What each reader makes of each checkpoint."""
    asked = list(chosen(request, "asked"))
    split = [one.split(" | ") for one in asked]
    requested = [{"directory": str(checkpoints[name]), "loader": LOADERS[reader]} for name, reader in split]
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    asking = {"checkpoints": requested, "tokens": TOKENS, "plain": True}
    return dict(
        zip(
            asked,
            run_reference(python, "format_reader.py", asking, tmp_path_factory.mktemp("r")),
            strict=True,
        )
    )


@pytest.mark.parametrize("asked", mostly_nightly(ASKED, EVERY_TIME))
def test_logits_are_ours_where_the_table_says_so(
    asked: str, readings: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    name, reader = asked.split(" | ")
    found = readings[asked]
    close = isinstance(found, dict) and bool((found["logits"] - logits(checkpoints[name])).abs().max() < 1e-3)
    assert close is reads(name, reader), found if isinstance(found, str) else "other logits"


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What vLLM makes of each checkpoint."""
    asked = list(chosen(request, "name"))
    requested = [{"directory": str(checkpoints[name]), "dtype": "auto"} for name in asked]
    python = interpreter_from("QUANTIZATION_VLLM_PYTHON")
    asking = {"checkpoints": requested, "tokens": TOKENS}
    return dict(
        zip(
            asked,
            run_reference(python, "vllm_reader.py", asking, tmp_path_factory.mktemp("v")),
            strict=True,
        )
    )


@pytest.mark.nightly
@pytest.mark.parametrize("name", HEAD_CASES)
def test_vllm_expects_our_next_tokens_where_the_table_says_so(
    name: str, served: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    found, ours = served[name], logits(checkpoints[name])[:, :-1]
    assert isinstance(found, dict) is reads(name, "vLLM"), found
    if isinstance(found, dict):
        logprobs = ours.log_softmax(-1).gather(2, TOKENS[:, 1:, None]).squeeze(2)
        assert float((ours.argmax(-1) == found["likeliest"]).double().mean()) >= 0.99
        assert float((logprobs - found["logprobs"]).abs().max()) <= 0.1
