"""Shapes that people quantize, as the real vLLM on the processor reads what a job published of a sharded checkpoint.

Its kernels for packed experts know few routers and activations. Where it has none, it reads the weights that the
artifact stores as a float model: names, shapes and what the class computes are the same.
"""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.causal_types import VOCABULARY
from tests.support.choice import chosen
from tests.support.engine import CPU
from tests.support.quantized_models import view_logits
from tests.support.quantizer_requests import Request, run_here
from tests.support.reference import interpreter_from, run_reference
from tests.support.reloaded import dequantized, experts_of, request_for
from tests.support.shapes import SHAPES, save_shape
from torch import Tensor

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.nightly,
    pytest.mark.timeout(3600),  # the first test makes and reads every artifact
    pytest.mark.filterwarnings("ignore"),
]

GROUP = 32
FOUR = {"bits": 4, "group_size": GROUP}
WAYS = ("gptq", "compressed-tensors", "awq", "dequantized")
NO_KERNEL = "No WNA16 MoE backend supports the deployment configuration"
REFUSED = {
    **{("deepseek_v3", way): NO_KERNEL for way in WAYS[:3]},  # of its router
    **{("gpt_oss", way): NO_KERNEL for way in WAYS[:3]},  # of its activation
    ("qwen3_moe", "compressed-tensors"): NO_KERNEL,
    ("qwen3_next", "compressed-tensors"): NO_KERNEL,
    ("granitemoehybrid", "gptq"): "layers.0.mamba.in_proj.qweight",
    ("granitemoehybrid", "compressed-tensors"): NO_KERNEL,
}
"""What vLLM 0.32 says where it does not load an artifact on a processor."""
LEFT_OUT = [
    ("qwen3_next", "gptq"),  # the format cannot say that the gate of a shared expert is left as it is
    ("qwen3_next", "awq"),  # its attention wants bfloat16, in which the file is not
    ("deepseek_v3", "dequantized"),  # likewise
    *product(("gemma3",), WAYS),  # it asks its processor for tokens that a tiny tokenizer has not
]
BFLOAT16 = ("qwen3_next",)
"""Shapes whose attention it computes in no other type; beside float32, random layers move tokens then."""
CASES = [case for case in product(SHAPES, WAYS) if case not in LEFT_OUT]


def job(way: str, model: Path, out: Path) -> Request:
    """The job that makes an artifact."""
    if way == "awq":
        awq = {"type": "AutoAWQQuantizer", "data_config": "calibration", "w_bit": 4, "q_group_size": GROUP}
        layer_pass = {**awq, **experts_of(model)}
        return Request(f"file://{out}", f"file://{model}", layer_pass=layer_pass, metrics=[], length=32)
    form = "gptq" if way == "gptq" else "compressed-tensors"
    return request_for(model, out, **FOUR, checkpoint_format=form)


def published(model_type: str, way: str, folder: Path) -> Path:
    """The artifact."""
    model, out = folder / model_type, folder / f"{model_type}-{way}"
    if not model.exists():
        save_shape(model_type, model, torch.float16)
    ended = run_here(job(way, model, out), folder / "scratch")
    assert ended.code == 0, ended.log
    return out / "model"


@pytest.fixture(scope="module")
def readings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Any, Tensor]]:
    """By case: what vLLM makes of it, or how it refuses it, and our logits."""
    folder = tmp_path_factory.mktemp("shapes")
    asked, ours, cases = [], [], chosen(request, "model_type", "way")
    for model_type, way in cases:
        artifact = published(model_type, way, folder)
        ours.append(view_logits(open_view(DirectorySource(artifact), CPU), tokens()))
        if way == "dequantized":
            plain = artifact.with_name("float")
            dequantized(artifact, folder / model_type, plain)
            for path in (folder / model_type).glob("*_config.json"):
                (plain / path.name).write_bytes(path.read_bytes())
            (plain / "tokenizer.json").write_bytes((folder / model_type / "tokenizer.json").read_bytes())
            artifact = plain
        dtype = "float32" if way == "dequantized" else "auto"
        dtype = "bfloat16" if model_type in BFLOAT16 and way == "dequantized" else dtype
        asked.append({"directory": str(artifact), "dtype": dtype})
    python = interpreter_from("QUANTIZATION_VLLM_PYTHON")
    read = run_reference(python, "vllm_reader.py", {"checkpoints": asked, "tokens": tokens()}, folder)
    return {case: (theirs, logits) for case, theirs, logits in zip(cases, read, ours, strict=True)}


def tokens() -> Tensor:
    """Four sequences, without special tokens."""
    return torch.randint(3, VOCABULARY - 3, (4, 40), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("model_type", "way"), CASES)
def test_vllm_expects_the_same_next_tokens_or_says_why_it_does_not_load(
    model_type: str, way: str, readings: dict[tuple[str, str], tuple[Any, Tensor]]
) -> None:
    theirs, logits = readings[model_type, way]
    reason = REFUSED.get((model_type, way))
    if isinstance(theirs, str) or reason:
        assert reason, theirs
        assert reason in theirs
        return
    ours = logits[:, :-1]
    agreement = float((ours.argmax(-1) == theirs["likeliest"]).double().mean())
    logprobs = ours.log_softmax(-1).gather(2, tokens()[:, 1:, None]).squeeze(2)
    difference = float((logprobs - theirs["logprobs"]).abs().max())
    print(f"{model_type}, {way}: the same for {agreement:.2%}, log-probabilities within {difference:.1e}")
    rounded = model_type in BFLOAT16
    assert agreement >= (0.8 if rounded else 0.97)
    assert difference <= (0.5 if rounded else 0.1)
