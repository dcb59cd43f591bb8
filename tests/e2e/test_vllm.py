"""The real vLLM on the processor reads what the table of readers says that it reads, and expects the same next tokens.

Its kernels for a processor hold 4 bits only, and those that compute in half precision move logits by thousandths, so
tokens that are almost equally likely may change places.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import (
    CALIBRATION,
    CPU,
    STORIES,
    VALIDATION,
    awq_pass,
    gptq_pass,
    quarot_pass,
    run_layers,
    story_batches,
)
from tests.support.quantized_models import view_logits
from tests.support.reference import interpreter_from, run_reference

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.passes.making import make_pass, weight_pass
from quantizer.passes.weight_pass import WeightParameters
from quantizer.report.readers import readers, written_by

pytestmark = pytest.mark.e2e

GROUP = 32
SEQUENCES, TOKENS = 4, 128
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ROTATION = quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None)


def gptq(**parameters: Any) -> WeightParameters:
    """GPTQ in groups of 32, symmetric unless said otherwise."""
    return gptq_pass(**{"group_size": GROUP, "sym": True, **parameters})


def chosen(**parameters: Any) -> WeightParameters:
    """GPTQ with 4 bits whose groups are chosen: of 32, or whole rows."""
    return gptq_pass(sym=True, candidate_bits=[4], candidate_group_sizes=[GROUP, -1], **parameters)


CASES: dict[str, tuple[WeightParameters, ...]] = {
    "gptq": (gptq(),),
    "gptq, act order, static groups": (gptq(desc_act=True, static_groups=True),),
    "gptq, act order": (gptq(desc_act=True),),
    "gptq, asymmetric": (gptq(sym=False),),
    "compressed-tensors": (gptq(checkpoint_format="compressed-tensors"),),
    "compressed-tensors, asymmetric": (gptq(sym=False, checkpoint_format="compressed-tensors"),),
    "compressed-tensors, act order": (
        gptq(checkpoint_format="compressed-tensors", desc_act=True, static_groups=True),
    ),
    "compressed-tensors, the attention alone": (
        gptq(checkpoint_format="compressed-tensors", inside_layer_modules=[[*QKV], ["self_attn.o_proj"]]),
    ),
    "compressed-tensors, q_proj alone": (
        gptq(checkpoint_format="compressed-tensors", inside_layer_modules=[["self_attn.q_proj"]]),
    ),
    "gptq, groups chosen": (chosen(target_bits=4.6),),
    "gptq, bits chosen": (gptq(target_bits=6, candidate_bits=[4, 8]),),
    "compressed-tensors, groups chosen": (chosen(target_bits=4.3, checkpoint_format="compressed-tensors"),),
    "compressed-tensors, bits chosen": (
        gptq(target_bits=6, candidate_bits=[4, 8], checkpoint_format="compressed-tensors"),
    ),
    "awq": (awq_pass(q_group_size=GROUP),),
    "awq without the MLP": (awq_pass(q_group_size=GROUP, modules_to_not_convert=["mlp"]),),
    "awq without q_proj": (awq_pass(q_group_size=GROUP, modules_to_not_convert=["q_proj"]),),
    "quarot": (quarot_pass(w_groupsize=GROUP),),
    "quarot, rotation alone": (ROTATION,),
    "quarot, then gptq": (ROTATION, gptq()),
}

ON_A_GPU = ("gptq, bits chosen", "compressed-tensors, bits chosen")
"""What the table says by vLLM's source alone: 8 bits."""
READ = [
    name
    for name, passes in CASES.items()
    if "vLLM" in readers(written_by(weight_pass(*passes), "llama")) and name not in ON_A_GPU
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model, quantized in several ways."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokens = story_batches(CALIBRATION, 4, folder)
    paths = {name: folder / str(number) for number, name in enumerate(CASES)}
    for name, passes in CASES.items():
        modules = weight_pass(*passes).modules
        run_layers(
            DirectorySource(STORIES),
            tokens,
            make_pass(*passes),
            paths[name],
            folder / "scratch",
            modules=modules,
        )
    return paths


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


@pytest.mark.parametrize("name", CASES)
def test_it_reads_what_the_table_says_and_refuses_the_others(name: str, readings: dict[str, Any]) -> None:
    assert isinstance(readings[name], dict) is (name in READ), readings[name]


@pytest.mark.parametrize("name", READ)
def test_the_likeliest_next_token_is_ours(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path], tokens: torch.Tensor
) -> None:
    modules = weight_pass(*CASES[name]).modules
    ours = view_logits(open_view(DirectorySource(checkpoints[name]), CPU, modules), tokens)[:, :-1]
    agreement = float((ours.argmax(-1) == readings[name]["likeliest"]).double().mean())
    logprobs = ours.log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    difference = float((logprobs - readings[name]["logprobs"]).abs().max())
    print(f"{name}: the same for {agreement:.2%}, log-probabilities within {difference:.3f}")
    assert agreement >= 0.99
    assert difference <= 0.1
