"""The real vLLM on the processor reads what the table of readers says that it reads, and expects the same next tokens.

Its kernels for a processor hold 4 bits only, and those that compute in half precision move logits by thousandths, so
tokens that are almost equally likely may change places.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.choice import chosen, mostly_nightly
from tests.support.engine import CPU, VALIDATION, story_batches
from tests.support.quantized_models import view_logits
from tests.support.reference import interpreter_from, run_reference
from tests.support.story_checkpoints import STORY_CASES, quantize_stories

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.report.readers import readers, written_by

pytestmark = pytest.mark.e2e

SEQUENCES, TOKENS = 4, 128
CASES = (
    "gptq",
    "gptq, act order, static groups",
    "gptq, act order",
    "gptq, asymmetric",
    "compressed-tensors",
    "compressed-tensors, asymmetric",
    "compressed-tensors, act order",
    "compressed-tensors, the attention alone",
    "compressed-tensors, q_proj alone",
    "gptq, groups chosen",
    "gptq, bits chosen",
    "compressed-tensors, groups chosen",
    "compressed-tensors, 4 and 8 bits chosen",
    "awq",
    "awq, compressed-tensors",
    "awq without the MLP",
    "awq without q_proj",
    "quarot",
    "quarot, compressed-tensors",
    "quarot, rotation alone",
    "quarot, then gptq",
)
EVERY_TIME = (
    "gptq",
    "gptq, asymmetric",
    "compressed-tensors",
    "compressed-tensors, groups chosen",
    "awq",
    "quarot",
)
ON_A_GPU = ("gptq, bits chosen", "compressed-tensors, 4 and 8 bits chosen")
"""What the table says by vLLM's source alone: it has no kernel for 8 bits on a processor."""
READ = [
    name
    for name in CASES
    if "vLLM" in readers(written_by(STORY_CASES[name].chosen, "llama")) and name not in ON_A_GPU
]


@pytest.fixture(scope="module")
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model, quantized in several ways."""
    return quantize_stories(chosen(request, "name"), tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Sequences of held-out text."""
    folder = tmp_path_factory.mktemp("tokens")
    return torch.stack(story_batches(VALIDATION, SEQUENCES, folder, TOKENS).sequences)


@pytest.fixture(scope="module")
def readings(
    checkpoints: dict[str, Path], tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What vLLM makes of each checkpoint, or how it refuses it."""
    asked = [{"directory": str(path), "dtype": "auto"} for path in checkpoints.values()]
    request = {"checkpoints": asked, "tokens": tokens}
    python = interpreter_from("QUANTIZATION_VLLM_PYTHON")
    results = run_reference(python, "vllm_reader.py", request, tmp_path_factory.mktemp("vllm"))
    return dict(zip(checkpoints, results, strict=True))


@pytest.mark.parametrize("name", mostly_nightly(CASES, EVERY_TIME))
def test_it_reads_what_the_table_says_and_refuses_the_others(name: str, readings: dict[str, Any]) -> None:
    assert isinstance(readings[name], dict) is (name in READ), readings[name]


@pytest.mark.parametrize("name", mostly_nightly(READ, set(EVERY_TIME) & set(READ)))
def test_the_likeliest_next_token_is_ours(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path], tokens: torch.Tensor
) -> None:
    modules = STORY_CASES[name].chosen.modules
    ours = view_logits(open_view(DirectorySource(checkpoints[name]), CPU, modules), tokens)[:, :-1]
    agreement = float((ours.argmax(-1) == readings[name]["likeliest"]).double().mean())
    logprobs = ours.log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    difference = float((logprobs - readings[name]["logprobs"]).abs().max())
    print(f"{name}: the same for {agreement:.2%}, log-probabilities within {difference:.3f}")
    assert agreement >= 0.99
    assert difference <= 0.1
